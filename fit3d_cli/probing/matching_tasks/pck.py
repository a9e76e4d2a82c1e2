"""PCK: the share of key points that are transferred to within a fraction of the picture's side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_cli.statistics import Pooled

ALPHAS = (0.05, 0.10, 0.15)


def hits(predicted: Tensor, truth: Tensor, side: float) -> Tensor:
    """Points transferred closer than ``alpha * side``, counted for each of ``ALPHAS``.

    Args:
        predicted: ``[K, 2]`` pixels.
        truth: ``[K, 2]`` pixels.
        side: Length that the thresholds are fractions of: the padded picture's side.

    Returns:
        ``[3]`` float64 counts.
    """
    error = (predicted.double() - truth.double()).norm(dim=1)
    limits = torch.tensor(ALPHAS, dtype=torch.float64) * side
    counts: Tensor = (error < limits[:, None]).sum(1)
    return counts.double()


def category_pck(
    right: Tensor, points: Tensor, categories: Sequence[int], scored: Tensor, *, by_pairs: bool
) -> Pooled:
    """PCK of each category over its pooled points, averaged over categories.

    A category's PCK is ``sum of right / sum of points``. Its mean over categories is written as a
    ratio of sums over pairs, so that a resample weighs a category by how often it was drawn.

    Args:
        right: ``[n]`` transferred points of each pair.
        points: ``[n]`` points of each pair.
        categories: ``[n]`` category of each pair.
        scored: ``[n]`` bool pairs that count.
        by_pairs: Weigh a category by its pairs; otherwise all categories weigh the same.
    """
    member = torch.tensor(list(categories))
    used = scored & (points > 0)
    count = int(member.max()) + 1 if len(member) else 0
    pooled = torch.zeros(count, dtype=torch.float64)
    pairs = torch.zeros(count, dtype=torch.float64)
    pooled.index_add_(0, member[used], points[used])
    pairs.index_add_(0, member[used], torch.ones_like(points[used]))
    weight = (pairs if by_pairs else torch.ones_like(pairs)) / pooled.clamp(min=1)
    sums = torch.stack([right, points], dim=1) * weight[member][:, None]
    sums[~used] = torch.nan
    return Pooled(sums, lambda total: total[..., 0] / total[..., 1])


def shared_groups(pairs: Sequence[tuple[object, object]]) -> list[int]:
    """Pairs that share a picture, directly or through others, get the same number."""
    parent: dict[object, object] = {}

    def root(item: object) -> object:
        while parent.setdefault(item, item) is not item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in pairs:
        parent[root(first)] = root(second)
    numbers: dict[object, int] = {}
    return [numbers.setdefault(root(first), len(numbers)) for first, _ in pairs]
