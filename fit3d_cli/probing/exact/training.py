"""The loop of the published protocols: all rows learn from the same crops, seen once per model."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from fit3d_cli.errors import ArchiveError, SettingsError
from fit3d_cli.probing.exact.crops import Crop
from fit3d_cli.probing.exact.drawing import Draws, batch_members
from fit3d_cli.probing.exact.frozen import Frozen, Seen
from fit3d_cli.probing.exact.protocol import Schedule
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.tensorfile import read_sealed, write_sealed

_AHEAD = 2  # steps whose crops are made while the backbones run
_SAVE_EVERY = 500


class Job(Protocol):
    """What segmentation and depth do differently."""

    def head(self, row: str, seen: Seen, generator: torch.Generator) -> nn.Module:
        """An untrained head for tokens like these."""
        ...

    def crop(self, index: int, draws: Draws) -> Crop:
        """A training picture."""
        ...

    def learn(
        self, head: nn.Module, row: str, seen: list[Seen], crops: list[Crop], step: int
    ) -> float:
        """Add the gradients of a step; returns the loss."""
        ...

    def quality(self, heads: Mapping[str, nn.Module]) -> dict[str, float]:
        """By row what the choice of the checkpoint goes by; less is better."""
        ...


@dataclass
class _Learner:
    head: nn.Module
    optimiser: torch.optim.AdamW
    best: float = math.inf
    chosen: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Training:
    """All that decides the heads.

    Attributes:
        rows: Of the report.
        count: Training pictures.
        schedule: Of every head.
        choose: Keep each head as it was when ``quality`` was best, instead of the last.
        seed: Of all draws; the same for every row.
        device: Where the heads are.
        checkpoint: File that a killed run goes on from, or None.
        identity: What the checkpoint must belong to.
    """

    rows: tuple[str, ...]
    count: int
    schedule: Schedule
    choose: bool
    seed: int
    device: str | torch.device
    checkpoint: Path | None = None
    identity: str = ""


def train_heads(
    job: Job, frozen: Frozen, training: Training, on_step: OnEvent
) -> dict[str, nn.Module]:
    """Train a head per row and leave them ready to predict.

    Args:
        job: The task.
        frozen: The backbones.
        training: Schedule and draws.
        on_step: Told about every step, with the time that is left.

    Raises:
        SettingsError: The models do not go together, or a head is not finite any more.
        StorageError: The checkpoint cannot be written.
    """
    schedule = training.schedule
    learners: dict[str, _Learner] = {}
    every = max(1, round(schedule.steps / schedule.choices))
    shown = _see(frozen, [job.crop(0, Draws("shape", training.seed))])[0]
    for row in training.rows:
        generator = torch.Generator().manual_seed(training.seed)
        head = job.head(row, shown, generator).to(training.device)
        optimiser = torch.optim.AdamW(
            head.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay
        )
        learners[row] = _Learner(head, optimiser)
    first = _restore(learners, training)
    began = time.monotonic()
    for step, crops in _crops(job, training, first):
        seen = _see(frozen, crops)
        losses = [
            _learn(job, learner, row, seen, crops, step, schedule)
            for row, learner in learners.items()
        ]
        if training.choose and ((step + 1) % every == 0 or step + 1 == schedule.steps):
            _choose(job, learners)
        left = (time.monotonic() - began) / (step + 1 - first) * (schedule.steps - step - 1)
        note = f"loss {losses[0]:.3f}, {_duration(left)} left"
        on_step(Progress("heads", step + 1, schedule.steps, note))
        if (step + 1) % _SAVE_EVERY == 0 and step + 1 < schedule.steps:
            _save(learners, training, step + 1)
    for learner in learners.values():
        if learner.chosen is not None:
            learner.head.load_state_dict(learner.chosen)
        if not all(bool(p.isfinite().all()) for p in learner.head.parameters()):
            raise SettingsError(
                f"the head diverged in {schedule.steps} steps", where="probe.lr",
                hint=f"give less than {schedule.lr:g}",
            )  # fmt: skip
        learner.head.eval()
    return {row: learner.head for row, learner in learners.items()}


def finish(training: Training) -> None:
    """Remove the checkpoint of a training whose figures are known."""
    if training.checkpoint is not None:
        training.checkpoint.unlink(missing_ok=True)


def _see(frozen: Frozen, crops: list[Crop]) -> list[Seen]:
    """Tokens of crops; runs of equal size share passes."""
    seen: list[Seen] = []
    start = 0
    for end in range(1, len(crops) + 1):
        shape = crops[start].target.shape
        if end == len(crops) or crops[end].target.shape != shape:
            seen += frozen.see([c.picture for c in crops[start:end]], frozen.frame(*shape))
            start = end
    return seen


def _learn(
    job: Job, learner: _Learner, row: str, seen: list[Seen], crops: list[Crop], step: int,
    schedule: Schedule,
) -> float:  # fmt: skip
    for group in learner.optimiser.param_groups:
        group["lr"] = schedule.lr * schedule.factor(step)
        group["betas"] = (schedule.beta(step), group["betas"][1])
    learner.optimiser.zero_grad(set_to_none=True)
    loss = job.learn(learner.head, row, seen, crops, step)
    if math.isfinite(schedule.clip):
        nn.utils.clip_grad_norm_(learner.head.parameters(), schedule.clip)
    learner.optimiser.step()
    return loss


def _choose(job: Job, learners: Mapping[str, _Learner]) -> None:
    for learner in learners.values():
        learner.head.eval()
    found = job.quality({row: learner.head for row, learner in learners.items()})
    for row, learner in learners.items():
        learner.head.train()
        if found[row] < learner.best or learner.chosen is None:
            learner.best = found[row]
            state = learner.head.state_dict()
            learner.chosen = {key: value.clone() for key, value in state.items()}


def _crops(job: Job, training: Training, first: int) -> Iterator[tuple[int, list[Crop]]]:
    """The crops of every step from ``first`` on, made ahead by a few threads."""
    steps, batch = training.schedule.steps, training.schedule.batch

    def order(pool: ThreadPoolExecutor, step: int) -> list[Future[Crop]]:
        members = batch_members(training.seed, step, batch, training.count)
        return [
            pool.submit(job.crop, index, Draws("crop", training.seed, step, place))
            for place, index in enumerate(members)
        ]

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        waiting: deque[list[Future[Crop]]] = deque()
        try:
            for step in range(first, steps):
                while len(waiting) < min(1 + _AHEAD, steps - step):
                    waiting.append(order(pool, step + len(waiting)))
                yield step, [future.result() for future in waiting.popleft()]
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()


def _save(learners: Mapping[str, _Learner], training: Training, step: int) -> None:
    if training.checkpoint is None:
        return
    tensors: dict[str, Tensor] = {}
    for row, learner in learners.items():
        parts = {"head": learner.head.state_dict(), "chosen": learner.chosen or {}}
        for number, state in learner.optimiser.state_dict()["state"].items():
            parts[f"optimiser/{number}"] = state
        for part, state in parts.items():
            tensors |= {f"{row}/{part}/{key}": value for key, value in state.items()}
        tensors[f"{row}/best"] = torch.tensor(learner.best, dtype=torch.float64)
    metadata = {"identity": training.identity, "step": str(step)}
    write_sealed(training.checkpoint, tensors, metadata)


def _restore(learners: Mapping[str, _Learner], training: Training) -> int:
    """Load a checkpoint of the same training; returns the steps that it has done."""
    if training.checkpoint is None or not training.checkpoint.is_file():
        return 0
    with suppress(ArchiveError):  # a damaged one is as good as none
        tensors, metadata = read_sealed(training.checkpoint)
        if metadata.get("identity") == training.identity:
            for row, learner in learners.items():
                _load(learner, row, tensors)
            return int(metadata["step"])
    return 0


def _load(learner: _Learner, row: str, tensors: Mapping[str, Tensor]) -> None:
    def part(name: str) -> dict[str, Tensor]:
        prefix = f"{row}/{name}/"
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    learner.head.load_state_dict(part("head"))
    state = learner.optimiser.state_dict()
    numbers = range(len(list(learner.head.parameters())))
    state["state"] = {number: part(f"optimiser/{number}") for number in numbers}
    learner.optimiser.load_state_dict(state)
    learner.best = float(tensors[f"{row}/best"])
    device = next(learner.head.parameters()).device
    learner.chosen = {k: v.to(device) for k, v in part("chosen").items()} or None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
