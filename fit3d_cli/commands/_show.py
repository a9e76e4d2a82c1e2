"""Tables on stdout; with ``_watch.py`` and app.py, the only rich code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

from fit3d_cli.commands._terminal import Plain, escaped

if TYPE_CHECKING:
    from pathlib import Path

    from fit3d_cli.config import Resolved

PLAIN_WIDTH = 160
SHOWN_FILES = 12


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the one error handler decide; rich would leave with exit code 1."""
        raise BrokenPipeError


def console(out: TextIO) -> Console:
    """A console for ``out``: colour on a terminal only, wide when it is a file or a pipe."""
    width = None if out.isatty() else PLAIN_WIDTH
    # Cells are escaped one by one; the escapes of rich's own colours are not.
    if isinstance(out, Plain):
        out = out.stream
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


def files(out: TextIO, name: str, paths: Sequence[Path]) -> None:
    """A list of files; of many in one folder the first and how many more."""
    if len(paths) > SHOWN_FILES:
        table(out, (name,), [(paths[0],)])
        out.write(f"... and {len(paths) - 1} more in {paths[0].parent}\n")
    elif paths:
        table(out, (name,), [(path,) for path in paths])


def cell(value: Any) -> str:
    """A table cell: floats to four digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return escaped(str(value))


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
