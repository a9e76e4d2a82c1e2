"""Figures of the scored pictures, one picture at a time, and who is alike among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fit3d_cli.datasets.base import DepthDataset, Sample, SegDataset
from fit3d_cli.probing.metrics import (
    DEPTH_METRICS,
    class_counts,
    depth_metrics,
    image_segmentation,
    split_segmentation,
)
from fit3d_cli.statistics import Measured

# Fewer groups than this say less of the spread than single pictures do.
MIN_GROUPS = 8
# Neighbouring frames of a video that are resampled together, at most.
BLOCK = 5


@dataclass(frozen=True)
class Scored:
    """What the heads of all rows made of a split.

    Attributes:
        measured: By row.
        predict: Index of a scored picture to ``[H, W]`` classes or metres by row; empty where the
            picture has no labelled pixel.
    """

    measured: Mapping[str, Measured]
    predict: Callable[[int], Mapping[str, Tensor]]


@dataclass
class SegScores:
    """Collects what one model says of every picture of a split.

    Attributes:
        dataset: Classes and the label to ignore.
        counts: ``[3, K]`` float64 per picture so far; NaN where no pixel is labelled.
    """

    dataset: SegDataset
    counts: list[Tensor] = field(default_factory=list)

    def add(self, predicted: Tensor | None, labels: Tensor) -> None:
        """The next picture: ``[H, W]`` classes; None if it has no labelled pixel."""
        classes = len(self.dataset.classes)
        if predicted is None:
            self.counts.append(torch.full((3, classes), torch.nan, dtype=torch.float64))
            return
        counted = class_counts(predicted.cpu(), labels, classes, self.dataset.ignore_index)
        self.counts.append(counted.double())

    def measured(self) -> Measured:
        """Figures of the split and samples of its pictures."""
        images = [image_segmentation(counts) for counts in self.counts]
        samples = {name: [image[name] for image in images] for name in images[0]}
        return Measured(samples, split_segmentation(torch.stack(self.counts)))


@dataclass
class DepthScores:
    """Collects what one model says of every picture of a split.

    Attributes:
        nearest: Predictions are clamped to it, metres.
        farthest: The other end.
        images: ``DEPTH_METRICS`` per picture so far; NaN where no pixel is scored.
    """

    nearest: float
    farthest: float
    images: list[dict[str, float]] = field(default_factory=list)

    def add(self, predicted: Tensor | None, depth: Tensor, valid: Tensor) -> None:
        """The next picture: ``[H, W]`` metres and where they count; None if nowhere."""
        if predicted is None:
            self.images.append(dict.fromkeys(DEPTH_METRICS, math.nan))
            return
        clamped = predicted.cpu().clamp(self.nearest, self.farthest)
        self.images.append(depth_metrics(clamped[valid], depth[valid]))

    def measured(self) -> Measured:
        """Samples of the pictures; every figure is their mean."""
        return Measured({name: [one[name] for one in self.images] for name in DEPTH_METRICS})


def group_pictures(
    dataset: SegDataset | DepthDataset, samples: tuple[Sample, ...]
) -> tuple[list[int] | None, tuple[str, ...]]:
    """Which scored pictures the bootstrap resamples together, and the note that says so.

    Pictures of one scene (their names share a folder) or neighbouring frames of a video are alike;
    resampled one by one, the interval would be too narrow.

    Args:
        dataset: Where the samples are from.
        samples: Scored pictures.
    """
    folders = [sample.name.rpartition("/")[0] for sample in samples]
    names = list(dict.fromkeys(folders))
    if len(names) >= MIN_GROUPS and len(names) < len(samples):
        note = f"intervals: {dataset.name}'s {len(names)} scenes are resampled as wholes"
        return [names.index(folder) for folder in folders], (note,)
    block = min(BLOCK, len(samples) // MIN_GROUPS)
    if dataset.video and block > 1:
        note = f"intervals: blocks of {block} neighbouring frames are resampled as wholes"
        return [number // block for number in range(len(samples))], (note,)
    if 1 < len(names) < len(samples):
        alike = f"all are of {len(names)} scenes"
    elif dataset.video and len(samples) > 1:
        alike = "they are frames of one video"
    else:
        return None, ()
    # Said, because such intervals are narrower than they should be.
    return None, (
        f"intervals: pictures are resampled one by one, though {alike}: too few to group",
    )
