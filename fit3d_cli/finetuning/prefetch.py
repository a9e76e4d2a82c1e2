"""Reading the samples of a step, some steps ahead of the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType

import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Batch, Pairs, Sample
from fit3d_cli.finetuning.objectives.base import Objective
from fit3d_cli.finetuning.pairs import draw_pairs
from fit3d_cli.finetuning.sampling import Draw, jitter
from fit3d_cli.finetuning.targets import SceneTargets, load_depth, load_sample
from fit3d_cli.settings import FinetuneSettings


@dataclass(frozen=True)
class Step:
    """One process's share of an effective batch, in CPU memory.

    Attributes:
        batches: Micro-batches, in the order of the draws.
        weights: ``[T]`` float64, the sum of each term's weights over them.
    """

    batches: tuple[Batch, ...]
    weights: Tensor


def load_step(
    scenes: Sequence[SceneTargets],
    draws: Sequence[Draw],
    objectives: Sequence[Objective],
    settings: FinetuneSettings,
) -> Step:
    """Read and pack the samples of a step.

    Args:
        scenes: What the draws speak of.
        draws: Of this process; possibly none.
        objectives: The terms that are minimised.
        settings: ``micro_batch``, ``jitter`` and ``pairs`` are used.

    Raises:
        Fit3dError: A photo or a map cannot be read any more.
    """
    batches = []
    samples: list[Sample] = []
    pairs: list[Pairs] = []
    for draw in draws:
        if samples and settings.micro_batch and len(samples) + draw.views > settings.micro_batch:
            batches.append(Batch.of(samples, pairs, "cpu"))
            samples, pairs = [], []
        seen, both = load_draw(scenes[draw.scene], draw, settings)
        if both is not None:
            first, second = len(samples) + both.first, len(samples) + both.second
            pairs.append(replace(both, first=first, second=second))
        samples += seen
    if samples:
        batches.append(Batch.of(samples, pairs, "cpu"))
    weights = torch.zeros(len(objectives), dtype=torch.float64)
    for batch in batches:
        for index, objective in enumerate(objectives):
            weights[index] += objective.weights(batch).double().sum()
    return Step(tuple(batches), weights)


def load_draw(
    scene: SceneTargets, draw: Draw, settings: FinetuneSettings
) -> tuple[list[Sample], Pairs | None]:
    """The pictures of a draw and, if it has a partner, their correspondences.

    Everything random comes from the draw's own seed, so it does not matter who loads it or when.

    Raises:
        Fit3dError: A photo or a map cannot be read any more.
    """
    generator = torch.Generator().manual_seed(draw.seed)
    views = [(draw.view, draw.flip)]
    if draw.partner is not None:
        views.append((draw.partner, draw.flip_partner))
    samples = []
    for view, flip in views:
        sample = load_sample(scene, view)
        sample = sample.flipped() if flip else sample
        samples.append(replace(sample, image=jitter(sample.image, settings.jitter, generator)))
    if draw.partner is None:
        return samples, None
    return samples, draw_pairs(
        load_depth(scene, draw.view), load_depth(scene, draw.partner), first=0, second=1,
        flip_a=draw.flip, flip_b=draw.flip_partner, settings=settings.pairs, generator=generator,
    )  # fmt: skip


class Prefetcher:
    """Loads steps in background threads, at most one step per thread ahead.

    A step is the same whoever loads it, so the number of threads changes no result.

    Args:
        load: From the number of a step to its samples; a pure function, called in any thread.
        workers: Threads; 0 loads a step when it is taken, in the thread that takes it.
    """

    def __init__(self, load: Callable[[int], Step], workers: int) -> None:
        self._load, self._workers = load, workers
        self._executor = (
            ThreadPoolExecutor(max_workers=workers, thread_name_prefix="samples")
            if workers
            else None
        )
        self._ahead: dict[int, Future[Step]] = {}

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def start(self, numbers: Iterable[int]) -> None:
        """Begin to load the next steps, as many of them as there are threads.

        Args:
            numbers: Of the steps that will be taken next, in this order.
        """
        if self._executor is None:
            return
        for number in islice(numbers, self._workers):
            if number not in self._ahead:
                self._ahead[number] = self._executor.submit(self._load, number)

    def take(self, number: int) -> Step:
        """The samples of a step; waits for them.

        Raises:
            Fit3dError: As ``load_step``.
        """
        if self._executor is None:
            return self._load(number)
        self.start([number])
        return self._ahead.pop(number).result()
