"""Length and direction of the frozen base's tokens, each on its own scale.

``mean |norm(s) / norm(b) - 1| + mean(1 - cos(s, b))`` over the usable tokens. A base token of
length zero has no ratio and counts zero there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs, base_of
from fit3d_cli.finetuning.objectives.tokens import cosines
from fit3d_cli.settings import FinetuneSettings


def _weights(batch: Batch) -> Tensor:
    return batch.mask.sum((1, 2))


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    base = base_of(outputs)
    length = base.norm(dim=-1)
    known = length > 0
    ratio = outputs.student.norm(dim=-1) / torch.where(known, length, 1.0)
    stretch = torch.where(known, (ratio - 1).abs(), 0.0)
    return (batch.mask * (stretch + 1 - cosines(outputs.student, base))).sum((1, 2))


OBJECTIVES.add(
    "norm_angle",
    Objective(
        "Multi-View Foundation Models (arXiv 2512.15708), its anchor", "base", _weights, _errors
    ),
)
