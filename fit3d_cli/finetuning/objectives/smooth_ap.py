"""Ranking of correspondences: pairwise SmoothAP.

Let ``s_ij`` be the cosine of the features of point i in the first picture and point j in the
second, ``g(x) = sigmoid(x / 0.01)``, and let j be a positive of i when the points are at most
``0.015 e`` apart in the world, a negative when they are more than ``0.3 e`` apart, e the extent of
what the two views see. Of each positive pair (i, j), the sums over the negatives k of i:

    AP1 = (g(s_ij - 1) + 1) / (g(s_ij - 1) + 1 + sum_k g(s_ik - 1))
    AP2 = (g(1 - s_ij) + 1) / (g(1 - s_ij) + 1 + sum_k g(s_ik - s_ij))

and the error is the mean of ``1 - (AP1 + AP2) / 2`` over the positive pairs. As published, the
points of the first picture are the queries and those of the second are ranked. Published
thresholds are 0.005 and 0.1 on objects of unit size, whose visible points lie about a third from
their median: hence the fractions of the extent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Batch, Pairs
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs
from fit3d_cli.finetuning.objectives.tokens import features_at, over_pairs
from fit3d_cli.settings import FinetuneSettings

_POSITIVE, _NEGATIVE = 0.015, 0.3  # distances, in extents
_STEEPNESS = 0.01
_MOST = 8  # positives of a point, nearest first: bounds memory where points lie in a heap


def _positives(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Indices ``[N]`` i and ``[N]`` j of the positive pairs and ``[P, P]`` bool, negatives."""
    points = pairs.points - pairs.points.mean(0)  # far from the origin, digits are lost
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(0)
    nearest, order = distances.topk(min(_MOST, len(points)), dim=1, largest=False)
    rows, ranks = torch.nonzero(nearest <= _POSITIVE * pairs.extent, as_tuple=True)
    return rows, order[rows, ranks], distances > _NEGATIVE * pairs.extent


def _weights(batch: Batch) -> Tensor:
    counts = [len(_positives(pairs)[0]) for pairs in batch.pairs]
    return torch.tensor(counts, dtype=batch.weight.dtype, device=batch.weight.device)


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    def error(pairs: Pairs) -> Tensor:
        ours = features_at(outputs.student[pairs.first], pairs.places_first)
        theirs = features_at(outputs.student[pairs.second], pairs.places_second)
        rows, columns, negative = _positives(pairs)
        similarity = ours @ theirs.T
        wanted = similarity[rows, columns]

        def above(threshold: Tensor) -> Tensor:
            """Soft count of the negatives of each positive pair above a similarity."""
            return (_step(similarity[rows] - threshold) * negative[rows]).sum(1)

        first = _step(wanted - 1) + 1
        second = _step(1 - wanted) + 1
        precision = first / (first + above(torch.ones_like(wanted)[:, None]))
        precision = precision + second / (second + above(wanted[:, None]))
        return (1 - precision / 2).sum()

    return over_pairs(outputs.student, batch, error)


def _step(difference: Tensor) -> Tensor:
    return torch.sigmoid(difference / _STEEPNESS)


OBJECTIVES.add(
    "smooth_ap", Objective("3DCorrEnhance (ICLR 2025)", "pairs", _weights, _errors)
)  # fmt: skip
