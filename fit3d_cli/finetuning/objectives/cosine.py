"""One minus the cosine to the lifted tokens: their direction, whatever their length."""

from __future__ import annotations

from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs
from fit3d_cli.finetuning.objectives.tokens import cosines
from fit3d_cli.settings import FinetuneSettings


def _weights(batch: Batch) -> Tensor:
    return batch.weight.sum((1, 2))


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    return (batch.weight * (1 - cosines(outputs.student, batch.targets))).sum((1, 2))


OBJECTIVES.add(
    "cosine",
    Objective(
        "Concerto (NeurIPS 2025); Splat and Distill (ICLR 2026), ablation without its head",
        "targets", _weights, _errors,
    ),
)  # fmt: skip
