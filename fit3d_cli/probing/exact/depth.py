"""Depth as published: random crops, whole pictures and their mirror images at test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fit3d_cli.datasets.base import DepthDataset, Sample
from fit3d_cli.probing.exact.crops import Crop, depth_crop
from fit3d_cli.probing.exact.drawing import Draws
from fit3d_cli.probing.exact.frozen import Frame, Frozen, Seen
from fit3d_cli.probing.exact.protocol import DepthProtocol
from fit3d_cli.probing.exact.resample import as_picture, mirror
from fit3d_cli.probing.heads import DepthHead, Fusion
from fit3d_cli.probing.losses import sig_loss
from fit3d_cli.probing.prediction import finer_depth
from fit3d_cli.probing.scores import DepthScores
from fit3d_cli.probing.split import depth_range, read_photo, read_target, where_valid
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.statistics import Measured


@dataclass(frozen=True)
class DepthJob:
    """Depth on one dataset.

    Attributes:
        dataset: Depths, ranges and crops.
        train: Pictures that heads learn from.
        val: Pictures that are scored.
        frozen: The backbones.
        protocol: Quirks.
        settings: Bins and range.
        device: Where the heads are.
        on_step: Told about every scored picture.
    """

    dataset: DepthDataset
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    frozen: Frozen
    protocol: DepthProtocol
    settings: ProbeSettings
    device: str | torch.device
    on_step: OnEvent

    def head(self, row: str, seen: Seen, generator: torch.Generator) -> DepthHead:
        """A 1x1 convolution to depth bins."""
        joined, width = seen.widths(row)
        fusion = Fusion(joined, width, generator=generator) if row == "fused" else None
        # The class token is one model's.
        channels = (width if fusion is not None else joined) + width
        return DepthHead(channels, self.settings.bins, *depth_range(self.dataset, self.settings),
                         fusion=fusion, generator=generator)  # fmt: skip

    def crop(self, index: int, draws: Draws) -> Crop:
        """A training picture."""
        sample = self.train[index]
        picture = as_picture(read_photo(self.dataset, sample))
        depth = read_target(self.dataset, sample)
        return depth_crop(picture, depth, self.dataset, self.protocol, draws)

    def learn(
        self, head: nn.Module, row: str, seen: list[Seen], crops: list[Crop], step: int
    ) -> float:
        """The loss of every pair of pictures, averaged over the pairs."""
        assert isinstance(head, DepthHead)
        schedule = self.protocol.schedule
        level = step < round(schedule.level * schedule.steps)
        pairs = range(0, len(crops), self.protocol.per_loss)
        total = 0.0
        for start in pairs:
            guesses, truths = [], []
            for one, crop in zip(
                seen[start : start + self.protocol.per_loss],
                crops[start : start + self.protocol.per_loss],
                strict=True,
            ):
                depth = self._depth(head, row, one, self.frozen.frame(*crop.target.shape))
                truth = crop.target.to(self.device)
                valid = truth > 0
                if self.protocol.clip_range:
                    valid = where_valid(self.dataset, truth, self.settings, scored=False)
                guesses.append(depth[valid])
                truths.append(truth[valid])
            guess, truth = torch.cat(guesses), torch.cat(truths)
            if len(guess) < 2:
                continue  # a pair without known depth says nothing
            loss = sig_loss(guess, truth, warm_up=level) / len(pairs)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    def quality(self, heads: Mapping[str, nn.Module]) -> dict[str, float]:
        """Mean relative error on the scored pictures."""
        found = {}
        for row, one in self.score(heads).items():
            values = [value for value in one.samples["abs_rel"] if math.isfinite(value)]
            found[row] = sum(values) / len(values) if values else math.inf
        return found

    @torch.no_grad()
    def score(self, heads: Mapping[str, nn.Module]) -> dict[str, Measured]:
        """Whole pictures at their own size, averaged with their mirror images."""
        nearest, farthest = depth_range(self.dataset, self.settings)
        scores = {row: DepthScores(nearest, farthest) for row in heads}
        for number, sample in enumerate(self.val, start=1):
            depth, valid = self._truth(sample)
            guesses = self.predict(heads, sample, depth, valid)
            for row, one in scores.items():
                one.add(guesses.get(row), depth, valid)
            self.on_step(Progress("scoring", number, len(self.val)))
        return {row: one.measured() for row, one in scores.items()}

    @torch.no_grad()
    def predict(
        self, heads: Mapping[str, nn.Module], sample: Sample, depth: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """``[H, W]`` metres of a picture by row; empty if no pixel of it is scored."""
        if not bool(valid.any()):
            return {}
        picture = as_picture(read_photo(self.dataset, sample)) / 255
        frame = self.frozen.frame(*depth.shape)
        views = [picture, mirror(picture)] if self.dataset.test_flip else [picture]
        seen = self.frozen.see(views, frame)
        made = {}
        for row, head in heads.items():
            assert isinstance(head, DepthHead)
            guesses = [self._depth(head, row, one, frame) for one in seen]
            both = len(guesses) == 2
            made[row] = (guesses[0] + mirror(guesses[1])) / 2 if both else guesses[0]
        return made

    def shown(self, heads: Mapping[str, nn.Module], index: int) -> dict[str, Tensor]:
        """``predict`` of the scored picture with this index."""
        sample = self.val[index]
        return self.predict(heads, sample, *self._truth(sample))

    def _truth(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Depths of a scored picture, and where they count."""
        depth = read_target(self.dataset, sample)
        valid = where_valid(self.dataset, depth, self.settings, scored=True,
                            parity=self.protocol.parity_box, where=sample.image_path)  # fmt: skip
        return depth, valid

    def _depth(self, head: DepthHead, row: str, seen: Seen, frame: Frame) -> Tensor:
        """``[H, W]`` metres of a picture."""
        grid = seen.features(row, with_cls=True).to(self.device)
        return frame.enlarge(finer_depth(head, grid), cut=self.protocol.cut_padding)[0, 0]
