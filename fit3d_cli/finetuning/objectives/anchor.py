"""L1 to the frozen base's tokens: what the base knows is not to be lost."""

from __future__ import annotations

from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs, base_of
from fit3d_cli.settings import FinetuneSettings


def _weights(batch: Batch) -> Tensor:
    return batch.mask.sum((1, 2))


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    return (batch.mask * (outputs.student - base_of(outputs)).abs().mean(-1)).sum((1, 2))


OBJECTIVES.add(
    "anchor", Objective("fidelity loss of ConDense (ECCV 2024)", "base", _weights, _errors)
)
