"""Segmentation as published: 512-pixel crops, batch statistics, sliding windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fit3d_cli.datasets.base import Sample, SegDataset
from fit3d_cli.probing.exact.crops import Crop, seg_crop
from fit3d_cli.probing.exact.drawing import Draws
from fit3d_cli.probing.exact.frozen import Frozen, Seen
from fit3d_cli.probing.exact.protocol import SegProtocol
from fit3d_cli.probing.exact.resample import as_picture, keep_ratio_size, resize_bytes
from fit3d_cli.probing.heads import Fusion, SegHead
from fit3d_cli.probing.prediction import enlarged_argmax
from fit3d_cli.probing.scores import SegScores
from fit3d_cli.probing.split import read_photo, read_target
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.statistics import Measured


@dataclass(frozen=True)
class SegJob:
    """Segmentation on one dataset.

    Attributes:
        dataset: Classes and labels.
        train: Pictures that heads learn from.
        val: Pictures that are scored.
        frozen: The backbones.
        protocol: Sizes and quirks.
        device: Where the heads are.
        on_step: Told about every scored picture.
    """

    dataset: SegDataset
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    frozen: Frozen
    protocol: SegProtocol
    device: str | torch.device
    on_step: OnEvent

    def head(self, row: str, seen: Seen, generator: torch.Generator) -> SegHead:
        """Batch normalisation and a 1x1 convolution."""
        joined, width = seen.widths(row)
        fusion = Fusion(joined, width, generator=generator) if row == "fused" else None
        return SegHead(width if fusion is not None else joined, len(self.dataset.classes),
                       fusion=fusion, generator=generator)  # fmt: skip

    def crop(self, index: int, draws: Draws) -> Crop:
        """A training picture."""
        sample = self.train[index]
        picture = as_picture(read_photo(self.dataset, sample))
        labels = read_target(self.dataset, sample)
        return seg_crop(picture, labels, self.protocol, self.dataset.ignore_index, draws)

    def learn(
        self, head: nn.Module, row: str, seen: list[Seen], crops: list[Crop], step: int
    ) -> float:
        """Cross-entropy over all pixels of the step, those without a class counting as 0."""
        features = torch.stack([one.features(row, with_cls=False) for one in seen])
        # Batch statistics over the whole step, as synchronised ones; only the enlarged logits of
        # one picture are in memory at a time.
        logits = head(features.to(self.device))
        small = logits.detach().permute(0, 3, 1, 2).requires_grad_()
        total = 0.0
        pixels = sum(crop.target.numel() for crop in crops)
        for index, crop in enumerate(crops):
            frame = self.frozen.frame(*crop.target.shape)
            large = frame.enlarge(small[index : index + 1], cut=self.protocol.cut_padding)
            target = crop.target[None].to(self.device)
            loss = cross_entropy(
                large, target, ignore_index=self.dataset.ignore_index, reduction="sum"
            )
            torch.autograd.backward(loss / pixels)
            total += float(loss.detach()) / pixels
        assert small.grad is not None
        torch.autograd.backward(logits, small.grad.permute(0, 2, 3, 1))
        return total

    def quality(self, heads: Mapping[str, nn.Module]) -> dict[str, float]:
        """Error of mIoU, for the choice of a checkpoint."""
        measured = self.score(heads)
        pooled = {row: one.pooled["miou"] for row, one in measured.items()}
        return {
            row: 1 - float(p.reduce(p.sums[p.sums.isfinite().all(1)].sum(0)))
            for row, p in pooled.items()
        }

    @torch.no_grad()
    def score(self, heads: Mapping[str, nn.Module]) -> dict[str, Measured]:
        """Sliding windows over the picture at its test size, enlarged to its own."""
        scores = {row: SegScores(self.dataset) for row in heads}
        for number, sample in enumerate(self.val, start=1):
            labels = read_target(self.dataset, sample)
            guesses = self.predict(heads, sample, labels)
            for row, one in scores.items():
                one.add(guesses.get(row), labels)
            self.on_step(Progress("scoring", number, len(self.val)))
        return {row: one.measured() for row, one in scores.items()}

    @torch.no_grad()
    def predict(
        self, heads: Mapping[str, nn.Module], sample: Sample, labels: Tensor
    ) -> dict[str, Tensor]:
        """``[H, W]`` classes of a picture by row; empty if no pixel of it is labelled."""
        if not bool((labels != self.dataset.ignore_index).any()):
            return {}
        windows = self._windows(sample)
        return {row: self._predict(head, row, windows, labels.shape) for row, head in heads.items()}

    def shown(self, heads: Mapping[str, nn.Module], index: int) -> dict[str, Tensor]:
        """``predict`` of the scored picture with this index."""
        sample = self.val[index]
        return self.predict(heads, sample, read_target(self.dataset, sample))

    def _windows(self, sample: Sample) -> _Windows:
        picture = as_picture(read_photo(self.dataset, sample))
        size = keep_ratio_size(picture.shape[2], picture.shape[1], self.protocol.long,
                               self.protocol.short)  # fmt: skip
        picture = resize_bytes(picture, *size) / 255
        height, width = picture.shape[1:]
        places = window_places(height, width, self.protocol.crop, self.protocol.stride)
        frame = self.frozen.frame(*picture[0][places[0]].shape)
        seen = self.frozen.see([picture[:, rows, columns] for rows, columns in places], frame)
        return _Windows((height, width), places, seen)

    def _predict(self, head: nn.Module, row: str, windows: _Windows, shape: torch.Size) -> Tensor:
        """``[H, W]`` classes: logits averaged where windows overlap, then enlarged."""
        first = windows.places[0]
        size = (first[0].stop - first[0].start, first[1].stop - first[1].start)
        frame = self.frozen.frame(*size)
        classes = len(self.dataset.classes)
        total = torch.zeros(1, classes, *windows.size, device=self.device)
        count = torch.zeros(windows.size, device=self.device)
        for (rows, columns), seen in zip(windows.places, windows.seen, strict=True):
            grid = head(seen.features(row, with_cls=False).to(self.device))
            logits = frame.enlarge(grid.permute(2, 0, 1)[None], cut=self.protocol.cut_padding)
            total[:, :, rows, columns] += logits
            count[rows, columns] += 1
        return enlarged_argmax(total / count, shape[0], shape[1])


@dataclass(frozen=True)
class _Windows:
    """Tokens of the sliding windows of a picture of ``size`` (height, width)."""

    size: tuple[int, int]
    places: list[tuple[slice, slice]]
    seen: list[Seen]


def window_places(height: int, width: int, crop: int, stride: int) -> list[tuple[slice, slice]]:
    """Rows and columns of sliding windows; the last ones are moved back into the picture.

    Args:
        height: Of the picture.
        width: Of the picture.
        crop: Side of a window; a smaller picture is one window in that direction.
        stride: Between windows.
    """

    def starts(length: int) -> list[int]:
        steps = max(length - crop + stride - 1, 0) // stride + 1
        return [max(min(step * stride + crop, length) - crop, 0) for step in range(steps)]

    return [
        (slice(top, min(top + crop, height)), slice(left, min(left + crop, width)))
        for top in starts(height)
        for left in starts(width)
    ]
