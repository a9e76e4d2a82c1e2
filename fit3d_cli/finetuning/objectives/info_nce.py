"""Contrast of correspondences: symmetric InfoNCE over the points of two views.

A point's feature in one picture must be the most similar to its own in the other, among all
points of the pair. Points that lie within one patch of it in either picture are left out: they
are as near in 3D as tokens can tell, and their features share tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from fit3d_cli.finetuning.batch import Batch, Pairs
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs
from fit3d_cli.finetuning.objectives.tokens import features_at, over_pairs, point_counts
from fit3d_cli.settings import FinetuneSettings


def _close(places: Tensor, height: int, width: int) -> Tensor:
    """``[P, P]`` bool: less than a patch apart in both directions."""
    patches = places * places.new_tensor([width, height])
    return ((patches[:, None] - patches[None]).abs() < 1).all(-1)


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    height, width = outputs.student.shape[1:3]

    def error(pairs: Pairs) -> Tensor:
        ours = features_at(outputs.student[pairs.first], pairs.places_first)
        theirs = features_at(outputs.student[pairs.second], pairs.places_second)
        alike = _close(pairs.places_first, height, width)
        alike |= _close(pairs.places_second, height, width)
        alike.fill_diagonal_(False)
        logits = ours @ theirs.T / settings.objectives.temperature
        logits = logits.masked_fill(alike, -torch.inf)
        forth = log_softmax(logits, dim=1).diagonal()
        back = log_softmax(logits, dim=0).diagonal()
        return -(forth + back).sum() / 2

    return over_pairs(outputs.student, batch, error)


OBJECTIVES.add(
    "info_nce",
    Objective(
        "InfoNCE (van den Oord et al. 2018) on 3D correspondences", "pairs", point_counts, _errors
    ),
)
