"""Which views make up each step: a pure function of the seed, so that resuming is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

_SEEDS = 2**32  # torch's CPU generator (mt19937) looks at no more bits of its seed
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Draw:
    """One element of a batch: a view and, for correspondences, a second one.

    Attributes:
        scene: Index of the scene.
        view: Index of the view in the scene.
        partner: Index of a view of the same scene that sees the same things, or None.
        flip: Whether to mirror the view.
        flip_partner: Whether to mirror the partner.
        seed: Of every random choice that is made while the draw is loaded.
    """

    scene: int
    view: int
    partner: int | None
    flip: bool
    flip_partner: bool
    seed: int

    @property
    def views(self) -> int:
        """How many pictures it brings."""
        return 1 if self.partner is None else 2


def plan_epoch(
    views: Sequence[tuple[int, int]],
    shapes: Sequence[tuple[int, int]],
    *,
    batch: int,
    flip: bool,
    seed: int,
    epoch: int,
    partners: Sequence[Sequence[int]] | None = None,
) -> list[list[Draw]]:
    """Batches of one epoch: every view once, shuffled over all scenes.

    Pictures of different sizes cannot share a batch, so views are dealt to the open batch of
    their size; what is left at the end makes smaller batches. With ``partners``, half of a batch
    are views of the epoch's order and each brings one of its partners, if it has any: a view is
    in its own right in an epoch once, and as a partner as often as chance will.

    Args:
        views: ``(scene, view)`` pairs.
        shapes: Picture size of each scene.
        batch: Views per batch.
        flip: Whether half of the draws are mirrored.
        seed: Decides order, partners and mirroring, together with ``epoch``.
        epoch: Number of the epoch.
        partners: For each of ``views``, the views of its scene that may go with it.
    """
    generator = torch.Generator().manual_seed(draw_seed(seed, epoch, 0, len(views)))
    order = torch.randperm(len(views), generator=generator).tolist()
    chances = torch.rand((len(views), 3), generator=generator, dtype=torch.float64).tolist()
    size = batch if partners is None else max(1, batch // 2)
    open_batches: dict[tuple[int, int], list[Draw]] = {}
    batches: list[list[Draw]] = []
    for position, index in enumerate(order):
        scene, view = views[index]
        first, second, which = chances[position]
        known = partners[index] if partners is not None else ()
        partner = known[int(which * len(known))] if known else None
        waiting = open_batches.setdefault(shapes[scene], [])
        waiting.append(
            Draw(scene, view, partner, flip and first < 0.5, flip and second < 0.5,
                 draw_seed(seed, epoch, position + 1, len(views)))
        )  # fmt: skip
        if len(waiting) == size:
            batches.append(open_batches.pop(shapes[scene]))
    return batches + list(open_batches.values())


def draw_seed(seed: int, epoch: int, position: int, views: int) -> int:
    """A seed for each draw of a training; no two draws of the first four milliards share one.

    A number that counts the draws goes through a bijection of 32-bit integers (the finaliser of
    MurmurHash3), so that repetition is ruled out instead of being improbable.

    Args:
        seed: Of the run.
        epoch: Number of the epoch.
        position: 0 for the epoch itself, 1 to ``views`` for its draws.
        views: Draws of an epoch.
    """
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
    mixed = (start + epoch * (views + 1) + position) % _SEEDS
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) % _SEEDS
    return mixed ^ (mixed >> 16)


def jitter(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation, each by a factor of 1 - s to 1 + s.

    Args:
        image: ``[3, H, W]`` in 0..1.
        strength: s; 0 returns the picture itself.
        generator: Draws the three factors.

    Returns:
        ``[3, H, W]`` in 0..1.
    """
    if not strength:
        return image
    check_dims(image=(image, "3 H W"))
    factors = 1 + strength * (2 * torch.rand(3, generator=generator) - 1)
    weights = torch.tensor(_LUMA).view(3, 1, 1)
    bright = image * factors[0]
    mean = (bright * weights).sum(0).mean()
    contrast = mean + factors[1] * (bright - mean)
    grey = (contrast * weights).sum(0, keepdim=True)
    return (grey + factors[2] * (contrast - grey)).clamp(0, 1)
