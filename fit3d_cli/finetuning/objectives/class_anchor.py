"""L1 to the frozen base's class token.

Lifted targets and correspondences speak of patch tokens only. The class token shares all weights
with them, so it drifts freely, and with it whatever is read off whole pictures. For a backbone
without one it is what ``Backbone.tokens_and_cls`` gives instead.
"""

from __future__ import annotations

from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs
from fit3d_cli.settings import FinetuneSettings


def _weights(batch: Batch) -> Tensor:
    return batch.weight.new_ones(len(batch.images))


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    if outputs.student_class is None or outputs.base_class is None:
        raise ValueError("the term needs the class tokens")
    return (outputs.student_class - outputs.base_class.detach()).abs().mean(-1)


OBJECTIVES.add(
    "class_anchor",
    Objective("as the fidelity loss of ConDense (ECCV 2024), on one token", "class", _weights,
              _errors),
)  # fmt: skip
