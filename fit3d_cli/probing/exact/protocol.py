"""The published protocols as data (FiT3D's evaluation, which is DINOv2's: mmseg 0.27, mmcv 1.5).

``parity`` is as published. ``fixed`` mends what its authors did not mean: padding is cut out of
the logits, depth reads normed tokens, a dataset is scored inside its own box, gamma acts on 0..1,
depths out of range are not learnt, and the last checkpoint counts instead of the one that scores
best on the test split. All else is the same in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from fit3d_cli.settings import ProbeSettings


@dataclass(frozen=True)
class Schedule:
    """How a head is trained; fewer steps keep the shares of warm-up and decay.

    The step size is ``lr * warm-up * decay``, both running from the first step (mmcv).

    Attributes:
        steps: Optimiser steps.
        batch: Pictures per step, however many devices.
        lr: AdamW's step size.
        weight_decay: AdamW's weight decay.
        warm_up: Share of the steps over which the step size rises linearly.
        warm_from: Where it starts, relative.
        decay: ``linear`` falls to 0, ``cosine`` to ``floor``.
        floor: Relative step size at the end of ``cosine``.
        one_cycle: Adam's first beta goes from .95 to .85 over 30 % of the steps and back (mmcv's
            momentum hook); else it is .9.
        clip: Largest total gradient norm; infinity for none.
        level: Share of the steps with the mean term of the depth loss only.
        choices: Evaluations among which the best checkpoint is chosen.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float
    warm_up: float
    warm_from: float
    decay: Literal["linear", "cosine"]
    floor: float = 0.0
    one_cycle: bool = False
    clip: float = math.inf
    level: float = 0.0
    choices: int = 1

    def factor(self, step: int) -> float:
        """Step size at ``step`` (from 0), relative to ``lr``."""
        gone = step / self.steps
        if self.decay == "linear":
            height = 1 - gone
        else:
            height = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * gone))
        rising = round(self.warm_up * self.steps)
        if step < rising:
            height *= 1 - (1 - step / rising) * (1 - self.warm_from)
        return height

    def beta(self, step: int) -> float:
        """Adam's first beta at ``step``."""
        if not self.one_cycle:
            return 0.9
        top, last = 0.3 * self.steps - 1, self.steps - 1
        if step <= top:
            return _cosine(0.95, 0.85, step / top if top > 0 else 1.0)
        return _cosine(0.85, 0.95, (step - top) / (last - top) if last > top else 1.0)

    def adjusted(self, settings: ProbeSettings) -> Schedule:
        """The same with what the user set."""
        decay = self.weight_decay if settings.weight_decay < 0 else settings.weight_decay
        return replace(
            self,
            steps=settings.steps or self.steps,
            batch=settings.batch,
            lr=settings.lr or self.lr,
            weight_decay=decay,
        )


def _cosine(start: float, end: float, share: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


SEG_SCHEDULE = Schedule(
    steps=40_000, batch=16, lr=1e-3, weight_decay=1e-4, warm_up=1500 / 40_000, warm_from=1e-6,
    decay="linear",
)  # fmt: skip
DEPTH_SCHEDULE = Schedule(
    steps=38_400, batch=16, lr=1e-4, weight_decay=0.01, warm_up=1 / 3, warm_from=1e-3,
    decay="cosine", floor=1e-8, one_cycle=True, clip=35.0, level=100 / 38_400, choices=6,
)  # fmt: skip


@dataclass(frozen=True)
class SegProtocol:
    """Segmentation.

    Attributes:
        schedule: Of the head.
        short: Side to which the shorter side is resized, pixels.
        long: Largest longer side, pixels.
        ratios: A training picture is resized by a factor drawn evenly from here besides.
        crop: Side of the square crops and windows, pixels.
        stride: Of the sliding windows, pixels.
        max_share: A crop of which one class takes more is drawn again, up to ten times.
        cut_padding: Cut the backbone's padding out of the logits.
    """

    schedule: Schedule = SEG_SCHEDULE
    short: int = 512
    long: int = 2048
    ratios: tuple[float, float] = (0.5, 2.0)
    crop: int = 512
    stride: int = 341
    max_share: float = 0.75
    cut_padding: bool = False


@dataclass(frozen=True)
class DepthProtocol:
    """Depth; crops, rotation and colours are the dataset's.

    Attributes:
        schedule: Of the head.
        per_loss: Pictures over which the loss pools its pixels (two per GPU as published). The
            published gradient loss compares pictures of such a pair along the wrong axes and is
            identically 0 there, so there is none.
        norm: Read tokens after the final norm.
        cut_padding: Cut the backbone's padding out of the depths.
        parity_box: Score inside the published box instead of the dataset's own.
        gamma_peak: Value of white when gamma is applied: 255 as published, 1 as meant.
        clip_range: Learn from depths in the dataset's range only, instead of all known ones.
        choose: Keep the checkpoint with the best abs_rel on the *scored* split.
    """

    schedule: Schedule = DEPTH_SCHEDULE
    per_loss: int = 2
    norm: bool = False
    cut_padding: bool = False
    parity_box: bool = True
    gamma_peak: float = 255.0
    clip_range: bool = False
    choose: bool = True


_MENDED = DepthProtocol(
    norm=True, cut_padding=True, parity_box=False, gamma_peak=1.0, clip_range=True, choose=False
)
SEG_PROTOCOLS = {"parity": SegProtocol(), "fixed": SegProtocol(cut_padding=True)}
DEPTH_PROTOCOLS = {"parity": DepthProtocol(), "fixed": _MENDED}
