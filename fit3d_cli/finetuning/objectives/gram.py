"""Similarities between the tokens of a picture, as in the frozen base.

With rows of length one, ``U`` of the student and ``V`` of the base, the error of a picture is the
mean of ``(U U^T - V V^T)^2`` over all pairs of tokens, each weighted by how usable both are. The
features may turn as a whole; what is alike stays alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs, base_of
from fit3d_cli.finetuning.objectives.tokens import unit
from fit3d_cli.settings import FinetuneSettings


def _weights(batch: Batch) -> Tensor:
    return batch.mask.mean((1, 2))


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    student, base = unit(outputs.student.flatten(1, 2)), unit(base_of(outputs).flatten(1, 2))
    mask = batch.mask.flatten(1)
    share = mask / mask.sum(1, keepdim=True).clamp(min=1e-12)
    errors = []
    for ours, theirs, tokens in zip(student, base, share, strict=True):  # one matrix at a time
        with torch.no_grad():
            wanted = theirs @ theirs.T
        squares = (ours @ ours.T - wanted).square()
        errors.append(tokens @ squares @ tokens)
    return _weights(batch) * torch.stack(errors)


OBJECTIVES.add(
    "gram", Objective("DINOv3 (2025), Gram anchoring, per picture", "base", _weights, _errors)
)
