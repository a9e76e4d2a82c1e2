"""The fast preset: tokens once, then linear heads on cached tokens.

Pictures are resized to a patch multiple and seen whole. Tokens are the last block's after the
final norm, for depth with the class token of the row's first model. Heads learn from labelled
pixels at the labels' own resolution; predictions are enlarged bilinearly to that resolution and
scored there. The published protocol (``exact``) has crops, flips, colour changes, sliding windows
and test-time flips besides; without them the tokens need computing only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.cache import TokenModel
from fit3d_cli.datasets.base import DepthDataset, SegDataset
from fit3d_cli.probing.features import Features
from fit3d_cli.probing.heads import DepthHead, Fusion, SegHead
from fit3d_cli.probing.losses import sig_loss
from fit3d_cli.probing.prediction import predict_depth, predict_labels
from fit3d_cli.probing.scores import DepthScores, Scored, SegScores
from fit3d_cli.probing.split import (
    Dataset,
    Split,
    depth_range,
    open_split,
    read_pixels,
    read_target,
    spread,
    where_valid,
)
from fit3d_cli.probing.training import PixelStore, Plan, train_head
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.statistics import Measured

NOTE = (
    "preset fast: linear head on frozen last-block tokens after the final norm; whole pictures,"
    " no augmentation, one scale"
)
# Shares of warm-up and the decay as published; few steps, so a larger depth step than published.
_SEG = Plan(1000, 16, 1e-3, 1e-4, 0.0375, "linear")
_DEPTH = Plan(1000, 16, 1e-3, 1e-4, 1 / 3, "cosine", clip=35.0)


# The prediction for a scored picture, by its index; None where it has no labelled pixel.
_Guess = Callable[[int], Tensor | None]


@dataclass(frozen=True)
class _Run:
    """What all rows share."""

    settings: ProbeSettings
    train: Split
    val: Split
    pixels: PixelStore
    device: str | torch.device
    seed: int
    on_step: OnEvent


def measure_fast(
    dataset: Dataset,
    models: Mapping[str, TokenModel],
    settings: ProbeSettings,
    *,
    device: str | torch.device,
    seed: int,
    cache_dir: Path | None,
    on_step: OnEvent,
) -> Scored:
    """Train and score a head per row of ``settings.models``, all with the same draws.

    Args:
        dataset: Its kind decides the task.
        models: By name, those that the rows need, on ``device``.
        settings: Rows, sizes and the head's schedule.
        device: Where backbones and heads run.
        seed: Of the initial weights and of all draws.
        cache_dir: Token cache; None keeps tokens in memory only.
        on_step: Told about every step.

    Raises:
        SettingsError: The models do not go together, or the head diverged.
        DatasetError: No labels, or labels of another size than their photo.
        ImageError: A picture cannot be read.
    """
    train, val = (
        open_split(label, dataset, spread(samples, settings.max_images), models, settings,
                   device=device, cache_dir=cache_dir, on_step=on_step)
        for label, samples in (("train", dataset.train), ("val", dataset.val))
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    pixels = read_pixels(dataset, train.samples, settings, generator, cache_dir, on_step)
    run = _Run(settings, train, val, pixels, device, seed, on_step)
    done: dict[str, tuple[Measured, _Guess]] = {}
    for row in settings.models:
        if isinstance(dataset, SegDataset):
            done[row] = _segment(row, dataset, run)
        else:
            done[row] = _depth(row, dataset, run)

    def predict(index: int) -> dict[str, Tensor]:
        found = {row: guess(index) for row, (_, guess) in done.items()}
        return {row: one for row, one in found.items() if one is not None}

    return Scored({row: measured for row, (measured, _) in done.items()}, predict)


def adjusted(plan: Plan, settings: ProbeSettings) -> Plan:
    """A preset's plan with what the user set."""
    return replace(
        plan,
        steps=settings.steps or plan.steps,
        batch=settings.batch,
        lr=settings.lr or plan.lr,
        weight_decay=plan.weight_decay if settings.weight_decay < 0 else settings.weight_decay,
    )


def _train(
    row: str, run: _Run, head: nn.Module, features: Features, plan: Plan,
    loss: Callable[[Tensor, Tensor, int], Tensor], generator: torch.Generator,
) -> None:  # fmt: skip
    def report(step: int, value: float) -> None:
        if step % 10 == 0 or step == plan.steps:
            run.on_step(Progress(f"{row}: head", step, plan.steps, f"loss {value:.3f}"))

    train_head(head, features, run.pixels, loss, plan, device=run.device, generator=generator,
               on_step=report)  # fmt: skip
    head.eval()


def _segment(row: str, dataset: SegDataset, run: _Run) -> tuple[Measured, _Guess]:
    generator = torch.Generator().manual_seed(run.seed)
    features = run.train.features(row, with_cls=False)
    joined, width = features.widths()
    fusion = Fusion(joined, width, generator=generator) if row == "fused" else None
    # What a learnt map gives out changes as it learns, so its statistics come from the batches.
    known = None if fusion is not None else features.statistics()
    head = SegHead(width if fusion is not None else joined, len(dataset.classes),
                   statistics=known, fusion=fusion, generator=generator).to(run.device)  # fmt: skip
    _train(row, run, head, features, adjusted(_SEG, run.settings),
           lambda output, target, _: nn.functional.cross_entropy(output, target),
           generator)  # fmt: skip
    seen = run.val.features(row, with_cls=False)
    scores = SegScores(dataset)

    def guess(index: int, labels: Tensor | None = None) -> Tensor | None:
        labels = read_target(dataset, run.val.samples[index]) if labels is None else labels
        if not bool(where_valid(dataset, labels, run.settings, scored=True).any()):
            return None
        return predict_labels(head, seen.grid(index).to(run.device), *labels.shape)

    for index, sample in enumerate(run.val.samples):
        labels = read_target(dataset, sample)
        scores.add(guess(index, labels), labels)
        run.on_step(Progress(f"{row}: scoring", index + 1, len(run.val.samples)))
    return scores.measured(), guess


def _depth(row: str, dataset: DepthDataset, run: _Run) -> tuple[Measured, _Guess]:
    generator = torch.Generator().manual_seed(run.seed)
    features = run.train.features(row, with_cls=True)
    joined, width = features.widths()
    fusion = Fusion(joined, width, generator=generator) if row == "fused" else None
    nearest, farthest = depth_range(dataset, run.settings)
    channels = (width if fusion is not None else joined) + width  # the class token is one model's
    head = DepthHead(channels, run.settings.bins, nearest, farthest, fusion=fusion,
                     generator=generator).to(run.device)  # fmt: skip
    plan = adjusted(_DEPTH, run.settings)
    level_steps = min(100, plan.steps // 10)  # only the level of the depth at first
    _train(row, run, head, features, plan,
           lambda output, target, step: sig_loss(output, target, warm_up=step < level_steps),
           generator)  # fmt: skip
    seen = run.val.features(row, with_cls=True)
    scores = DepthScores(nearest, farthest)

    def truth(index: int) -> tuple[Tensor, Tensor]:
        sample = run.val.samples[index]
        depth = read_target(dataset, sample)
        where = sample.image_path
        return depth, where_valid(dataset, depth, run.settings, scored=True, where=where)

    def guess(index: int, known: tuple[Tensor, Tensor] | None = None) -> Tensor | None:
        depth, valid = known or truth(index)
        if not bool(valid.any()):
            return None
        return predict_depth(head, seen.grid(index).to(run.device), *depth.shape)

    for index in range(len(run.val.samples)):
        depth, valid = known = truth(index)
        scores.add(guess(index, known), depth, valid)
        run.on_step(Progress(f"{row}: scoring", index + 1, len(run.val.samples)))
    return scores.measured(), guess
