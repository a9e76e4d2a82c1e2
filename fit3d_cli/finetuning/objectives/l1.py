"""L1 to the lifted tokens: FiT3D's only term."""

from __future__ import annotations

from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs
from fit3d_cli.settings import FinetuneSettings


def _weights(batch: Batch) -> Tensor:
    return batch.weight.sum((1, 2))


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    # FiT3D: sum(mask * |difference|) / (sum(mask) * C), the mask here a weight in 0..1.
    return (batch.weight * (outputs.student - batch.targets).abs().mean(-1)).sum((1, 2))


OBJECTIVES.add(
    "l1", Objective("FiT3D (ECCV 2024), stage 2", "targets", _weights, _errors)
)  # fmt: skip
