"""The parts of a page that tell one report, each from values to markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fit3d_cli.pages.forest import forest, reach
from fit3d_cli.pages.html import Markup, el, name
from fit3d_cli.pages.items import Items, extremes, items_of, moved
from fit3d_cli.pages.metrics import number, ordered, shown_first
from fit3d_cli.pages.page import remarks
from fit3d_cli.pages.paired import paired
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.pages.tables import badge, differences_table, figures_table, settings_table
from fit3d_cli.pages.verdict import (
    Comparison,
    all_names,
    comparisons,
    headline,
    reference_row,
    sentence,
    task_title,
)
from fit3d_cli.report import CAUTION, Report

RULE = (
    "A difference counts when its paired 95 % bootstrap interval does not cover zero; otherwise it "
    "is within noise. Intervals cover the choice of what was measured on (images, pairs of views, "
    "...), not the randomness of training."
)


def claims(report: Report) -> Markup | None:
    """What may be said of each model by the headline metric: badge, sentence, drawing."""
    judged = _judged(report)
    half = reach(judged)
    made = [el("li", badge(c), el("p", sentence(c)), forest(c, half)) for c in judged]
    return el("ul", made, class_="claims") if made else None


def lead(report: Report) -> str:
    """The answer in one plain sentence."""
    base, first = reference_row(report), headline(report)
    if base is None or first is None or first.name not in base.figures:
        return "Nothing was measured that could be judged."
    judged = _judged(report)
    if not judged:
        figure = base.figures[first.name]
        ends = (
            f" (95 % interval {number(figure.low)} to {number(figure.high)})"
            if figure.has_interval else ""
        )  # fmt: skip
        return (
            f"{base.model} alone was measured, so there is nothing to judge it by: "
            f"{first.label} {number(figure.value)}{ends} over {figure.n} {report.over}."
        )
    words = {
        "better": "better than", "worse": "worse than", "within noise": "within noise of",
        "equal": "equal to", "undecided": "not yet decided against",
    }  # fmt: skip
    told = []
    for outcome in dict.fromkeys(c.outcome for c in judged):  # in the order of the models
        models = [c.model for c in judged if c.outcome == outcome]
        listed = " and ".join(filter(None, [", ".join(models[:-1]), models[-1]]))
        verb = "is" if len(models) == 1 else "are"
        told.append(f"{listed} {verb} {words[outcome]} {base.model}")
    return f"On {report.dataset}, {'; '.join(told)}."


def figures(report: Report) -> list[Markup | None]:
    """The figures that a task is judged by, and behind a fold all others."""
    names = ordered(report.task, all_names(report))
    first = shown_first(report.task, names) or names[:4]
    every = comparisons(report)
    return [
        figures_table(report, first),
        el("details", el("summary", f"All {len(names)} figures"), figures_table(report, names))
        if len(names) > len(first) else None,
        el("details", el("summary", f"All {len(every)} differences"), differences_table(every))
        if len(every) > len(_judged(report)) else None,
    ]  # fmt: skip


def distribution(items: Items) -> list[Markup]:
    """Item by item, for every model but the reference."""
    made = [paired(items, model) for model in items.values if model != items.reference]
    return [one for one in made if one is not None]


def item_parts(
    report: Report, show: Callable[[int], Sequence[Shown]] | None = None
) -> list[Markup]:
    """Distribution, where the judged model lost and gained, worst and best items."""
    items = items_of(report)
    if items is None:
        return []
    return [
        *distribution(items),
        *([one] if (one := moved(items)) is not None else []),
        *extremes(items, show),
    ]


def drift(report: Report) -> Markup | None:
    """How far the tuned tokens went from the base's."""
    if not report.drift:
        return None
    words = {"cosine": "cosine to the base", "norm_ratio": "length ratio to the base"}
    told = [
        f"{words.get(key, key)} {number(figure.value)}"
        + (f" ({number(figure.low)} to {number(figure.high)})" if figure.has_interval else "")
        for key, figure in report.drift.items()
    ]
    pictures = next(iter(report.drift.values())).n
    text = f"Drift of the tuned tokens: {', '.join(told)}, over {pictures} pictures."
    return el("p", text, class_="small")


def notes(report: Report) -> list[Markup | None]:
    """Cautions, then what else a reader must know."""
    others = [note for note in report.notes if not note.startswith(CAUTION)]
    return [remarks(report.cautions, caution=True), remarks(others)]


def report_card(report: Report) -> Markup:
    """One report among others: claims, figures, items and settings behind folds."""
    parts = item_parts(report)
    return el(
        "section",
        el("h3", name(task_title(report))),
        el("p", f"{report.count} {report.over}", class_="small soft"),
        claims(report),
        *figures(report),
        drift(report),
        el("details", el("summary", "Item by item: distribution, worst and best"), parts)
        if parts else None,
        el("details", el("summary", "How it was measured"), *notes(report),
           settings_table(report.settings) if report.settings else None)
        if report.notes or report.settings else None,
        class_="card",
    )  # fmt: skip


def _judged(report: Report) -> list[Comparison]:
    names = ordered(report.task, all_names(report))
    first = shown_first(report.task, names) or names[:1]
    return [c for c in comparisons(report) if c.metric.name == (first[0] if first else "")]
