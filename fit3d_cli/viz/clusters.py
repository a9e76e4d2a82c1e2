"""Feature maps as segments by k-means, with shared centroids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims
from fit3d_cli.viz.colours import distinct_colours

_CHUNK = 16_384


@dataclass(frozen=True)
class Clusters:
    """Centroids, largest cluster first.

    Attributes:
        centroids: ``[k, C]``.
        origin: ``[C]`` subtracted from features before they are assigned.
        cosine: Whether they are then scaled to unit length.
    """

    centroids: Tensor
    origin: Tensor
    cosine: bool

    def __post_init__(self) -> None:
        check_dims(centroids=(self.centroids, "k C"), origin=(self.origin, "C"))

    def assign(self, features: Tensor) -> Tensor:
        """``[..., C]`` features to ``[...]`` int64 cluster numbers."""
        rows = features.to(self.centroids).reshape(-1, features.shape[-1]) - self.origin
        rows = _unit(rows) if self.cosine else rows
        return _nearest(rows, self.centroids)[0].reshape(features.shape[:-1])

    def __call__(self, features: Tensor) -> Tensor:
        """``[..., C]`` features to ``[..., 3]`` colours in 0..1, one per cluster."""
        return distinct_colours(len(self.centroids))[self.assign(features)]


def kmeans(
    rows: Tensor, k: int, *, seed: int = 0, iterations: int = 50, cosine: bool = True
) -> Clusters:
    """Lloyd's k-means from k-means++ seeds (Arthur and Vassilvitskii, 2007).

    Args:
        rows: ``[..., C]`` features of everything that is shown together; rows that are not
            finite are left out.
        k: Clusters; fewer come back when there are fewer different rows.
        seed: Of the k-means++ draws.
        iterations: Lloyd steps at most; stops earlier when nothing moves.
        cosine: Compare directions from the mean row instead of positions: tokens share a large
            common part and differ in length for reasons that are not semantic.

    Returns:
        The centroids, ordered by falling cluster size so that colours are stable.

    Raises:
        ValueError: No finite rows, or ``k < 1``.
    """
    flat = rows.detach().reshape(-1, rows.shape[-1]).double().cpu()
    flat = flat[torch.isfinite(flat).all(1)]
    if not len(flat) or k < 1:
        raise ValueError(f"kmeans needs finite rows and k >= 1, got {len(flat)} rows and k = {k}")
    origin = flat.mean(0) if cosine else torch.zeros_like(flat[0])
    flat = _unit(flat - origin) if cosine else flat
    centroids = _plus_plus(flat, k, torch.Generator().manual_seed(seed))
    labels, distances = _nearest(flat, centroids)
    for _ in range(iterations):
        counts = torch.bincount(labels, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, labels, flat)
        moved = sums / counts.clamp(min=1)[:, None].double()
        # A cluster that lost all its rows starts again at the worst-served row.
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            worst = int(distances.argmax())
            moved[empty] = flat[worst]
            distances[worst] = 0
        if torch.equal(moved, centroids):
            break
        centroids = moved
        labels, distances = _nearest(flat, centroids)
    order = torch.bincount(labels, minlength=len(centroids)).argsort(descending=True, stable=True)
    return Clusters(centroids[order].float(), origin.float(), cosine)


def _plus_plus(rows: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """``[k, C]`` seeds: each is drawn with probability proportional to its squared distance."""
    first = int(torch.randint(len(rows), (1,), generator=generator))
    chosen = [first]
    distances = (rows - rows[first]).square().sum(1)
    while len(chosen) < k and float(distances.max()) > 1e-12:
        # Inverse of the cumulative sum: torch.multinomial takes at most 2**24 weights.
        cumulative = distances.cumsum(0)
        draw = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
        index = min(int(torch.searchsorted(cumulative, draw, right=True)), len(rows) - 1)
        chosen.append(index)
        distances = torch.minimum(distances, (rows - rows[index]).square().sum(1))
    return rows[chosen].clone()


def _nearest(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid and squared distance of each row."""
    labels, distances = [], []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        table = torch.cdist(chunk, centroids, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = table.min(1)
        labels.append(nearest.indices)
        distances.append(nearest.values.square())
    return torch.cat(labels), torch.cat(distances)


def _unit(rows: Tensor) -> Tensor:
    scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return scaled
