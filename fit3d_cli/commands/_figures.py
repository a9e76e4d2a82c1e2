"""A report as text: every figure with its interval, every difference with its verdict."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, TextIO

from fit3d_cli.commands import _show

if TYPE_CHECKING:
    from fit3d_cli.report import Figure, Report

WIDTH = 100
_COLUMNS = ("metric", "n", "model", "value", "95 % CI", "to {}", "95 % CI", "verdict")


def show(out: TextIO, report: Report, *, every: bool) -> None:
    """Print a report: figures, drift and notes; see ``table``."""
    table(out, report, every=every)
    if report.drift:
        out.write(_paragraph(drift_line(report)))
    for note in report.notes:
        out.write(_paragraph(f"note: {note}"))


def table(out: TextIO, report: Report, *, every: bool) -> None:
    """Print the figures of a report, a line per metric and model, at most 100 columns wide.

    Args:
        out: Where to.
        report: What was measured.
        every: All metrics, not only those that the task is judged by.
    """
    from fit3d_cli.pages.metrics import metric, ordered, shown_first
    from fit3d_cli.pages.verdict import all_names, comparisons, reference_row, task_title

    names = ordered(report.task, all_names(report))
    chosen = names if every else shown_first(report.task, names) or names
    found = {(c.model, c.metric.name): c for c in comparisons(report)}
    base = reference_row(report)
    rows: list[tuple[object, ...]] = []
    for name in chosen:
        judged = metric(name)
        title = f"{judged.label} {judged.arrow}".strip()
        for row in report.rows:
            if name not in row.figures:
                continue
            figure, against = row.figures[name], found.get((row.model, name))
            words = (
                (signed(against.figure), signed_ends(against.figure), against.outcome)
                if against else ("", "", "")
            )  # fmt: skip
            rows.append((title, figure.n, row.model, number(figure), ends(figure), *words))
            title = ""
    out.write(f"{task_title(report)}, {report.count} {report.over}\n")
    columns = [name.format(base.model if base else "base") for name in _COLUMNS]
    if len(report.rows) < 2:
        columns, rows = columns[:5], [row[:5] for row in rows]
    _show.table(out, columns, rows, right=(1, 3, 5))
    if len(chosen) < len(names):
        out.write(f"{len(names) - len(chosen)} more figures: -v, or the report\n")


def drift_line(report: Report) -> str:
    """How far tuning moved the tokens, one sentence."""
    words = {"cosine": "cosine", "norm_ratio": "length ratio"}
    told = [
        f"{words.get(name, name)} {number(figure)} ({ends(figure)})"
        if figure.has_interval
        else f"{words.get(name, name)} {number(figure)}"
        for name, figure in report.drift.items()
    ]
    pictures = next(iter(report.drift.values())).n
    return f"drift of tuned from base: {', '.join(told)} over {pictures} pictures"


def number(figure: Figure) -> str:
    """The value to three or four digits."""
    return _text(figure.value, 3)


def signed(figure: Figure) -> str:
    """The value with its sign, to one more digit."""
    return _text(figure.value, 4, sign=True)


def ends(figure: Figure) -> str:
    """``0.431–0.473``, a dash without an interval."""
    return f"{_text(figure.low, 3)}–{_text(figure.high, 3)}" if figure.has_interval else "–"


def signed_ends(figure: Figure) -> str:
    """``−0.0012 to +0.0473``, a dash without an interval."""
    if not figure.has_interval:
        return "–"
    return f"{_text(figure.low, 4, sign=True)} to {_text(figure.high, 4, sign=True)}"


def _text(value: float, places: int, *, sign: bool = False) -> str:
    """A number to so many decimals, fewer where it is large; columns of a metric line up."""
    if not math.isfinite(value):
        return "–"
    places -= sum(abs(value) >= limit for limit in (10, 100, 1000))
    text = f"{abs(value):.{max(places, 0)}f}"
    return f"{'−' if value < 0 else '+' if sign and value > 0 else ''}{text}"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ") + "\n"
