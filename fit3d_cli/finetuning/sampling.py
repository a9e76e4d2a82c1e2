"""Which views make up each step: a pure function of the seed, so that resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draw:
    """One element of a batch.

    Attributes:
        scene: Index of the scene.
        view: Index of the view in the scene.
        flip: Whether to mirror it.
    """

    scene: int
    view: int
    flip: bool


def plan_epoch(
    views: Sequence[tuple[int, int]],
    shapes: Sequence[tuple[int, int]],
    *,
    batch: int,
    flip: bool,
    seed: int,
    epoch: int,
) -> list[list[Draw]]:
    """Batches of one epoch: every view once, shuffled over all scenes.

    Pictures of different sizes cannot share a batch, so views are dealt to the open batch of
    their size; what is left at the end makes smaller batches.

    Args:
        views: ``(scene, view)`` pairs.
        shapes: Picture size of each scene.
        batch: Views per batch.
        flip: Whether half of the draws are mirrored.
        seed: Decides order and mirroring, together with ``epoch``.
        epoch: Number of the epoch.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(views), generator=generator).tolist()
    mirrored = (torch.rand(len(views), generator=generator) < 0.5).tolist()
    open_batches: dict[tuple[int, int], list[Draw]] = {}
    batches: list[list[Draw]] = []
    for position in order:
        scene, view = views[position]
        waiting = open_batches.setdefault(shapes[scene], [])
        waiting.append(Draw(scene, view, flip and mirrored[position]))
        if len(waiting) == batch:
            batches.append(open_batches.pop(shapes[scene]))
    return batches + list(open_batches.values())
