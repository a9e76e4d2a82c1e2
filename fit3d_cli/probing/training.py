"""Fitting a head on a few labelled pixels per picture and step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fit3d_cli.errors import SettingsError
from fit3d_cli.probing.features import Features
from fit3d_cli.shapes import check_dims
from fit3d_cli.tensorfile.overflow import Kept, Overflow

# Labelled pixels that are remembered of a picture, and how many of them a step looks at. Pixels
# of a picture are so alike that more of them teach a linear head nothing new.
PIXELS_KEPT = 2048
PIXELS_PER_STEP = 256


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels of one picture, drawn at random.

    Attributes:
        places: ``[P, 2]`` float32, x and y of the pixel centres in 0..1 of width and height.
        targets: ``[P]`` class numbers (int64) or depths (float32).
    """

    places: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        check_dims(places=(self.places, "P 2"), targets=(self.targets, "P"))


class PixelStore:
    """Labelled pixels by picture, None for those without: in memory as far as a budget goes.

    Args:
        memory: Bytes; the rest lies in a temporary file.
        folder: Where that file lies; None is the system's place.
    """

    def __init__(self, memory: int, folder: Path | None = None) -> None:
        hint = "make room there, or raise --set probe.memory"
        self._overflow = Overflow(folder, budget=memory, hint=hint)
        self._kept: list[tuple[Kept, Kept] | None] = []

    def add(self, pixels: Pixels | None) -> None:
        """The pixels of the next picture."""
        keep = self._overflow.keep
        kept = None if pixels is None else (keep(pixels.places), keep(pixels.targets))
        self._kept.append(kept)

    @property
    def usable(self) -> list[int]:
        """Pictures that have any."""
        return [index for index, kept in enumerate(self._kept) if kept is not None]

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Pixels | None:
        kept = self._kept[index]
        return None if kept is None else Pixels(kept[0].get(), kept[1].get())


@dataclass(frozen=True)
class Plan:
    """How a head is trained.

    Attributes:
        steps: Optimiser steps.
        batch: Pictures per step.
        lr: AdamW's largest step.
        weight_decay: AdamW's weight decay.
        warm_up: Share of the steps over which the step size rises linearly.
        decay: How it falls to zero afterwards: ``linear`` or ``cosine``.
        clip: Largest total gradient norm; infinity for none.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float
    warm_up: float
    decay: Literal["linear", "cosine"]
    clip: float = math.inf

    def factor(self, step: int) -> float:
        """Step size at ``step``, relative to ``lr``."""
        rising = max(1, round(self.warm_up * self.steps))
        if step < rising:
            return (step + 1) / rising
        gone = (step - rising) / max(1, self.steps - rising)
        return 1 - gone if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * gone))


def draw_pixels(labels: Tensor, valid: Tensor, generator: torch.Generator) -> Pixels | None:
    """Draw labelled pixels of a picture, with replacement.

    Args:
        labels: ``[H, W]`` class numbers or depths.
        valid: ``[H, W]`` bool, pixels that may be drawn.
        generator: CPU generator.

    Returns:
        At most ``PIXELS_KEPT`` pixels, or None if there is no valid one.
    """
    sizes = check_dims(labels=(labels, "H W"), valid=(valid, "H W"))
    indices = valid.flatten().nonzero()[:, 0]
    if not len(indices):
        return None
    # A lone pixel counts twice: batch statistics and the variance of the loss need two values.
    count = min(PIXELS_KEPT, max(2, len(indices)))
    chosen = indices[torch.randint(len(indices), (count,), generator=generator)]
    row, column = chosen // sizes["W"], chosen % sizes["W"]
    places = torch.stack([(column + 0.5) / sizes["W"], (row + 0.5) / sizes["H"]], dim=1)
    return Pixels(places.float(), labels.flatten()[chosen])


def train_head(
    head: nn.Module,
    features: Features,
    pixels: PixelStore,
    loss: Callable[[Tensor, Tensor, int], Tensor],
    plan: Plan,
    *,
    device: str | torch.device,
    generator: torch.Generator,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``head`` in place with AdamW on batches of pictures, each epoch in a new order.

    Args:
        head: On ``device``.
        features: Of the training split.
        pixels: One entry per picture of the split; pictures without labels are passed over.
        loss: Of the head's output, the targets and the number of the step.
        plan: Schedule.
        device: Where the head is.
        generator: CPU generator: the order of the pictures and their pixels.
        on_step: Called with the steps done and the loss.

    Raises:
        SettingsError: The head is not finite any more.
    """
    usable = pixels.usable
    optimiser = torch.optim.AdamW(head.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    order: list[int] = []
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * plan.factor(step)
        inputs, targets = [], []
        for _ in range(min(plan.batch, len(usable))):
            if not order:
                order = torch.randperm(len(usable), generator=generator).tolist()
            index = usable[order.pop()]
            entry = pixels[index]
            assert entry is not None
            count = min(PIXELS_PER_STEP, len(entry.targets))
            chosen = torch.randint(len(entry.targets), (count,), generator=generator)
            inputs.append(features.at(index, entry.places[chosen]))
            targets.append(entry.targets[chosen])
        output = head(torch.cat(inputs).to(device))
        value = loss(output, torch.cat(targets).to(device), step)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        if math.isfinite(plan.clip):
            nn.utils.clip_grad_norm_(head.parameters(), plan.clip)
        optimiser.step()
        if on_step is not None:
            on_step(step + 1, float(value.detach()))
    if not all(bool(torch.isfinite(parameter).all()) for parameter in head.parameters()):
        raise SettingsError(
            f"the head diverged in {plan.steps} steps", where="probe.lr",
            hint=f"give less than {plan.lr:g}",
        )  # fmt: skip
