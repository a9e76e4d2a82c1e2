"""Tables on stdout and progress on stderr: with app.py, the only rich code."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from fit3d_cli.progress import Progress, ignore

if TYPE_CHECKING:
    from fit3d_cli.config import Resolved
    from fit3d_cli.progress import OnEvent

LINE_EVERY = 10.0
PLAIN_WIDTH = 160


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the one error handler decide; rich would leave with exit code 1."""
        raise BrokenPipeError


def console(out: TextIO) -> Console:
    """A console for ``out``: colour on a terminal only, wide when it is a file or a pipe."""
    width = None if out.isatty() else PLAIN_WIDTH
    return _Console(file=out, width=width, highlight=False, markup=False, emoji=False)


def table(
    out: TextIO,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    right: Sequence[int] = (),
) -> None:
    """Print rows; columns of numbers, and those in ``right``, right-aligned, None as a dash."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = index in right or all(isinstance(row[index], int | float | None) for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(cell, row))
    console(out).print(grid)


def cell(value: Any) -> str:
    """A table cell: floats to four digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def settings(out: TextIO, resolved: Resolved, facts: Mapping[str, Any]) -> None:
    """The table of ``--dry-run``: key, value, source, meaning."""
    from fit3d_cli.config import as_text

    rows = [(key, as_text(v.value), v.source, v.description) for key, v in resolved.values.items()]
    if rows:
        table(out, ("setting", "value", "from", "meaning"), rows)
        out.write("\n")
    if facts:
        pairs = [(k, " ".join(v) if isinstance(v, list) else v) for k, v in facts.items()]
        table(out, ("also", "value"), [(k, v if v not in ("", None) else "-") for k, v in pairs])
    out.write("Nothing was done (--dry-run).\n")


@contextlib.contextmanager
def progress(err: TextIO, *, quiet: bool) -> Iterator[OnEvent]:
    """A listener: a live bar on a terminal, sparse lines otherwise, nothing when quiet."""
    if quiet:
        yield ignore
    elif err.isatty():
        with _bars(err) as bars:
            yield _Live(bars)
    else:
        yield _Lines(err)


def _bars(err: TextIO) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
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

    def __call__(self, event: Progress) -> None:
        total = event.total or None
        if event.stage != self._stage:
            if self._stage:
                self._bars.remove_task(self._task)
            self._stage = event.stage
            self._task = self._bars.add_task(event.stage, total=total, note=event.note)
        self._bars.update(self._task, completed=event.done, total=total, note=event.note)
        if event.total and event.done >= event.total:
            elapsed = self._bars.tasks[-1].elapsed or 0.0
            self._bars.console.print(f"{_line(event)}  {elapsed:.1f} s")
            self._bars.remove_task(self._task)
            self._stage = ""


class _Lines:
    """A line when a stage starts or ends, and at most every ten seconds in between."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._stage = ""
        self._last = 0.0

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        ended = bool(event.total) and event.done >= event.total
        if event.stage == self._stage and not ended and now - self._last < LINE_EVERY:
            return
        self._stage = "" if ended else event.stage
        self._last = now
        self._err.write(_line(event) + "\n")
        self._err.flush()


def _line(event: Progress) -> str:
    count = f"{event.done}/{event.total}" if event.total else str(event.done)
    return f"{event.stage}  {count}  {event.note}".rstrip()
