"""Tables: figures with intervals and paired differences, settings, anything in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fit3d_cli.pages.html import Markup, Node, el, name, without_paths
from fit3d_cli.pages.metrics import metric, number, signed
from fit3d_cli.pages.verdict import Comparison, basis, best_models, comparisons
from fit3d_cli.report import Report


def table(head: Sequence[Node], rows: Sequence[Markup], *, words: Sequence[int] = ()) -> Markup:
    """A table that scrolls sideways where it is too wide; columns in ``words`` hold text."""
    cells = [
        el("th", title, scope="col", class_="words" if i in words else None)
        for i, title in enumerate(head)
    ]
    grid = el("table", el("thead", el("tr", cells)), el("tbody", rows))
    return el("div", grid, class_="scroll", tabindex=0)  # the keyboard can scroll it


def row(first: Node, cells: Sequence[Node]) -> Markup:
    """A row whose first cell is its heading; a cell that is no ``Markup`` becomes a ``td``."""
    made = [cell if _is_cell(cell) else el("td", cell) for cell in cells]
    return el("tr", el("th", first, scope="row"), made)


def words(text: Node) -> Markup:
    """A cell of text."""
    return el("td", text, class_="words")


def _is_cell(node: Node) -> bool:
    return isinstance(node, Markup) and node.text.startswith("<td")


def badge(comparison: Comparison) -> Markup:
    """The outcome as a coloured word."""
    return el("span", comparison.outcome, class_=f"badge {comparison.outcome.replace(' ', '-')}")


def figure_cells(report: Report, metric_name: str, models: Sequence[str]) -> list[Markup]:
    """Of one metric, a cell per model: value, interval, difference to the reference."""
    best = best_models(report, metric_name)
    rows = {row.model: row for row in report.rows}
    found = {c.model: c for c in comparisons(report) if c.metric.name == metric_name}
    cells = []
    for model in models:
        figure = rows[model].figures.get(metric_name) if model in rows else None
        against = found.get(model)
        cells.append(
            el(
                "td",
                number(figure.value) if figure else "–",
                el("span", f"{number(figure.low)} to {number(figure.high)}", class_="ends")
                if figure and figure.has_interval else None,
                el("span", f"{signed(against.difference)} {against.outcome}",
                   class_=f"delta {against.outcome.replace(' ', '-')}") if against else None,
                class_="best" if model in best else None,
            )
        )  # fmt: skip
    return cells


def figures_table(report: Report, names: Sequence[str]) -> Markup:
    """A row per metric, a column per model."""
    models = [one.model for one in report.rows]
    rows = []
    for metric_name in names:
        judged = metric(metric_name)
        counts = {one.figures[metric_name].n for one in report.rows if metric_name in one.figures}
        rows.append(
            row(
                f"{judged.label}\u00a0{judged.arrow}".strip(),
                [" / ".join(map(str, sorted(counts))), *figure_cells(report, metric_name, models)],
            )
        )
    return table(["Metric", "n", *map(name, models)], rows)


def differences_table(every: Sequence[Comparison]) -> Markup:
    """A row per metric and model: difference, what it rests on, verdict."""
    rows = [
        row(
            f"{c.metric.label}\u00a0{c.metric.arrow}".strip(),
            [words(name(c.model)), signed(c.difference), words(basis(c)), words(badge(c))],
        )
        for c in every
    ]
    return table(["Metric", "Model", "Difference", "Basis", "Verdict"], rows, words=(1, 3, 4))


def settings_table(
    settings: Mapping[str, object], defaults: Mapping[str, object] | None = None
) -> Markup:
    """Keys, values and, where known, the defaults; absolute paths lose their directories.

    Args:
        settings: Nested or dotted.
        defaults: Of the same keys.
    """
    flat, usual = flat_settings(settings), flat_settings(defaults or {})
    rows = [
        row(
            el("code", key),
            [
                words(el("code", without_paths(value) or "(empty)")),
                *([words(el("code", without_paths(usual.get(key, "–")) or "(empty)"))]
                  if defaults else []),
            ],
        )
        for key, value in flat.items()
    ]  # fmt: skip
    head = ["Setting", "Value", *(["Default"] if defaults else [])]
    return table(head, rows, words=(1, 2))


def flat_settings(settings: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and the text that ``--set`` takes."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        elif isinstance(value, (list, tuple)):
            flat[f"{prefix}{key}"] = ",".join(map(str, value))
        else:
            flat[f"{prefix}{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return flat
