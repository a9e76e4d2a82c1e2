"""The contract of a term, and the registry of all terms.

A term is one file in this package that calls ``OBJECTIVES.add(name, Objective(...))`` under the
name of its weight in ``ObjectiveSettings``. The objective of a step is
``sum_t weight_t * sum_i e_ti / sum_i w_ti`` over the items i of the whole batch (pictures, or pairs
of pictures): the sums of ``w`` are known before any forward pass, so that a batch may be cut into
micro-batches and over processes without changing its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fit3d_cli.finetuning.batch import Batch
from fit3d_cli.registry import Registry
from fit3d_cli.settings import FinetuneSettings


@dataclass(frozen=True)
class Outputs:
    """Tokens of a batch.

    Attributes:
        student: ``[B, h, w, C]`` float32, of the backbone that learns.
        base: ``[B, h, w, C]`` of the frozen base, or None when no term needs it.
        student_class: ``[B, C]`` class token of the backbone that learns, or None.
        base_class: ``[B, C]`` of the frozen base, or None.
    """

    student: Tensor
    base: Tensor | None = None
    student_class: Tensor | None = None
    base_class: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """One term.

    Attributes:
        source: Where it is from, one line.
        needs: ``targets`` (lifted tokens), ``base`` (patch tokens of the frozen base), ``class``
            (class tokens of both) or ``pairs`` (correspondences).
        weights: ``[I]`` weight of each item of a batch, not depending on any parameter.
        errors: ``[I]`` error of each item times its weight, differentiable in the student.
    """

    source: str
    needs: Literal["targets", "base", "class", "pairs"]
    weights: Callable[[Batch], Tensor]
    errors: Callable[[Batch, Outputs, FinetuneSettings], Tensor]


def base_of(outputs: Outputs) -> Tensor:
    """The base's tokens, for a term that needs them.

    Raises:
        ValueError: The trainer made none, which is a bug.
    """
    if outputs.base is None:
        raise ValueError("the term needs the base's tokens")
    return outputs.base.detach()


OBJECTIVES: Registry[Objective] = Registry("objective", "fit3d_cli.finetuning.objectives")


def active_objectives(settings: FinetuneSettings) -> Mapping[str, float]:
    """Names and weights of the terms that are switched on, sorted by name."""
    weights = settings.objectives
    return {
        name: float(getattr(weights, name))
        for name in OBJECTIVES.names()
        if getattr(weights, name) > 0
    }
