"""Progress on stderr: a live bar on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from fit3d_cli.commands._show import console
from fit3d_cli.commands._terminal import escaped
from fit3d_cli.progress import Progress, ignore, in_order

if TYPE_CHECKING:
    from fit3d_cli.progress import OnEvent

LINE_EVERY = 10.0
_WINDOW = 30.0  # seconds over which the rate is measured
_SAMPLE_EVERY = 0.5
_SETTLED = 1.0  # seconds before a rate is worth telling

Clock = Callable[[], float]


@contextlib.contextmanager
def watch(
    err: TextIO, *, quiet: bool, verbose: int = 0, stages: Sequence[str] = ()
) -> Iterator[OnEvent]:
    """A listener for the length of a block.

    Args:
        err: Where to show it.
        quiet: Show nothing.
        verbose: Above 0, how long each stage took is told at the end.
        stages: How the names of the stages end, where all are known.
    """
    if quiet:
        yield ignore
        return
    times = Times()
    with _bars(err) if err.isatty() else contextlib.nullcontext() as bars:
        shown = _Live(bars) if bars is not None else _Lines(err)

        def listen(event: Progress) -> None:
            times(event)
            shown(event)

        try:
            yield in_order(listen, stages)
        finally:
            times.stop()
    if verbose:
        for stage, seconds in times.seconds.items():
            err.write(f"time: {escaped(stage)}  {duration(seconds)}\n")


class Pace:
    """How fast a stage is, measured over its last half minute: first steps are often slow."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()

    def restart(self) -> None:
        """A new stage begins."""
        self._marks.clear()

    def __call__(self, event: Progress) -> str:
        """``12.3/s  ETA 1:20``, or nothing while it is too early to tell."""
        now = self._clock()
        if not self._marks or now - self._marks[-1][0] >= _SAMPLE_EVERY:
            self._marks.append((now, event.done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW:
            self._marks.popleft()
        began, first = self._marks[0]
        if now - began < _SETTLED or event.done <= first:
            return ""
        rate = (event.done - first) / (now - began)
        told = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        left = event.total - event.done
        return f"{told}  ETA {duration(left / rate)}" if left > 0 else told


class Times:
    """Seconds per stage, in the order of their first event."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._began = 0.0

    def __call__(self, event: Progress) -> None:
        if event.stage != self._stage:
            self.stop()
            self._stage, self._began = event.stage, self._clock()

    def stop(self) -> None:
        """The stage that runs has ended."""
        if self._stage:
            passed = self._clock() - self._began
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + passed
        self._stage = ""


def duration(seconds: float) -> str:
    """``7.3 s``, ``1:20`` (minutes), ``2:03:10`` (hours)."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def title(event: Progress) -> str:
    """``[2/5 3/7] kitchen: geometry``: scene 2 of 5, stage 3 of 7."""
    counts = [f"{at}/{of}" for at, of in (event.item, event.place) if of]
    stage = escaped(event.stage)
    return f"[{' '.join(counts)}] {stage}" if counts else stage


def line(event: Progress, pace: str = "") -> str:
    """An event on one line."""
    count = f"{event.done}/{event.total}" if event.total else str(event.done)
    return "  ".join(word for word in (title(event), count, pace, escaped(event.note)) if word)


def _bars(err: TextIO) -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        console=console(err),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
        refresh_per_second=4,
    )


class _Live:
    """One live bar; a finished stage leaves one line behind."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._stage = ""
        self._task = TaskID(0)
        self._pace = Pace()

    def __call__(self, event: Progress) -> None:
        total = event.total or None
        if event.stage != self._stage:
            if self._stage:
                self._bars.remove_task(self._task)
            self._stage = event.stage
            self._pace.restart()
            self._task = self._bars.add_task(
                title(event), total=total, note=escaped(event.note), pace=""
            )
        pace = self._pace(event)
        self._bars.update(
            self._task, description=title(event), completed=event.done, total=total,
            note=escaped(event.note), pace=pace,
        )  # fmt: skip
        if event.total and event.done >= event.total:
            elapsed = self._bars.tasks[-1].elapsed or 0.0
            self._bars.console.print(line(event, duration(elapsed)))
            self._bars.remove_task(self._task)
            self._stage = ""


class _Lines:
    """A line when a stage starts or ends, and at most every ten seconds in between."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._stage = ""
        self._began = 0.0
        self._last = 0.0
        self._pace = Pace()

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        ended = bool(event.total) and event.done >= event.total
        if event.stage != self._stage:
            self._began = now
            self._pace.restart()
        pace = self._pace(event)
        if event.stage == self._stage and not ended and now - self._last < LINE_EVERY:
            return
        if ended:
            pace = duration(now - self._began) if self._stage == event.stage else ""
        self._stage = "" if ended else event.stage
        self._last = now
        self._err.write(line(event, pace) + "\n")
        self._err.flush()
