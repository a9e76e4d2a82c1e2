"""What stands out: the first principal component, cut in two, as DINOv2's figures do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims
from fit3d_cli.viz.pca import fit_pca

_BINS = 256


@dataclass(frozen=True)
class Foreground:
    """A direction in feature space and where to cut it.

    Attributes:
        mean: ``[C]`` origin.
        axis: ``[C]`` unit vector that points to the foreground.
        threshold: Projection above which a token is foreground.
        spread: Standard deviation of the projections.
    """

    mean: Tensor
    axis: Tensor
    threshold: float
    spread: float

    def __post_init__(self) -> None:
        check_dims(mean=(self.mean, "C"), axis=(self.axis, "C"))

    def score(self, features: Tensor) -> Tensor:
        """``[..., C]`` to ``[...]``: above 0 is foreground, in standard deviations."""
        return ((features.to(self.mean) - self.mean) @ self.axis - self.threshold) / self.spread

    def __call__(self, features: Tensor) -> Tensor:
        """``[..., C]`` features to ``[...]`` bool."""
        return self.score(features) > 0


def find_foreground(maps: Sequence[Tensor], *, seed: int = 0) -> Foreground:
    """Cut the first principal component of all maps in two.

    DINOv2 (Oquab et al. 2023, figure 1) thresholds it by hand. Here Otsu's threshold (1979: the
    cut that leaves least variance within the two sides) is taken, and the foreground is the side
    that touches the rims of the pictures less: what a photographer aims at is in the middle.

    Args:
        maps: Token maps ``[h, w, C]``, at least one.
        seed: Of the row sample.

    Returns:
        The cut; deterministic.

    Raises:
        ValueError: No finite features.
    """
    rows = torch.cat([tokens.reshape(-1, tokens.shape[-1]) for tokens in maps])
    basis = fit_pca(rows, k=1, seed=seed)
    axis = basis.components[:, 0]
    scores = [(tokens.to(basis.mean) - basis.mean) @ axis for tokens in maps]
    values = torch.cat([score.flatten() for score in scores])
    cut = _otsu(values[torch.isfinite(values)])
    rim = torch.cat([_rim(score)[0] for score in scores]) > cut
    inner = torch.cat([_rim(score)[1] for score in scores]) > cut
    at_rim = float(rim.float().mean())
    inside = float(inner.float().mean()) if len(inner) else at_rim
    spread = float(values.double().std()) if len(values) > 1 else 1.0
    sign = 1.0 if inside >= at_rim else -1.0
    return Foreground(basis.mean, sign * axis, sign * cut, max(spread, 1e-12))


def _rim(score: Tensor) -> tuple[Tensor, Tensor]:
    """The outermost ring of a grid, and the rest, flat."""
    edge = torch.ones_like(score, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return score[edge], score[~edge]


def _otsu(values: Tensor) -> float:
    """The threshold that separates ``values`` into two groups of least variance."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    counts = torch.histc(values.double(), _BINS, low, high)
    centres = low + (torch.arange(_BINS, dtype=torch.float64) + 0.5) * (high - low) / _BINS
    below = counts.cumsum(0)[:-1]
    above = counts.sum() - below
    sums = (counts * centres).cumsum(0)
    between = (sums[:-1] / below.clamp(min=1) - (sums[-1] - sums[:-1]) / above.clamp(min=1)) ** 2
    best = int((below * above * between).argmax())
    return low + (best + 1) * (high - low) / _BINS
