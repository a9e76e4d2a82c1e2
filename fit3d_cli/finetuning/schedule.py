"""The step size over a training."""

from __future__ import annotations

import math

from fit3d_cli.settings import FinetuneSettings


def step_size(settings: FinetuneSettings, step: int, steps: int) -> float:
    """AdamW's step size: rises linearly, then stays, or falls along half a cosine (SGDR).

    A pure function of the step, so that a resumed training needs to remember nothing.

    Args:
        settings: ``lr``, ``warmup`` and ``schedule`` are used.
        step: Number of the update, from 0.
        steps: Updates of the whole training.
    """
    rise = round(settings.warmup * steps)
    if step < rise:
        return settings.lr * (step + 1) / rise
    if settings.schedule == "constant":
        return settings.lr
    # The last update still moves: the cosine reaches zero one step behind the end.
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
