"""How sure a difference between two models is: the paired bootstrap over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean difference and its bootstrap interval.

    Attributes:
        difference: Mean of ``ours - theirs`` over the pairs.
        low: Lower end.
        high: Upper end.
        count: Pairs.
        level: Nominal coverage, e.g. 0.95.
    """

    difference: float
    low: float
    high: float
    count: int
    level: float

    @property
    def covers_zero(self) -> bool:
        """Whether the data are compatible with no difference at this level."""
        return self.low <= 0 <= self.high


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    seed: int = 0,
    draws: int = 10_000,
    level: float = 0.95,
) -> Interval | None:
    """Percentile interval of the mean paired difference (Efron and Tibshirani, 1993, ch. 13).

    Both models saw the same images, so images are resampled and not scores: what makes an image
    hard for both cancels.

    Args:
        ours: One score per image; NaN where the image could not be scored.
        theirs: The other model's scores of the same images in the same order.
        seed: Of the resampling.
        draws: Resamples.
        level: Nominal coverage.

    Returns:
        None when fewer than two images were scored by both.

    Raises:
        ValueError: Different numbers of images, or a level outside 0..1.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"paired samples differ in length: {len(ours)} and {len(theirs)}")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level {level} and draws {draws} must be in (0, 1) and positive")
    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    values = torch.tensor([d for d in pairs if math.isfinite(d)], dtype=torch.float64)
    count = len(values)
    if count < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    means = []
    step = max(1, _CHUNK_VALUES // count)
    for start in range(0, draws, step):
        shape = (min(step, draws - start), count)
        means.append(values[torch.randint(count, shape, generator=generator)].mean(1))
    tail = (1 - level) / 2
    ends = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return Interval(float(values.mean()), float(ends[0]), float(ends[1]), count, level)
