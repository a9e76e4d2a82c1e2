"""Which model is better, by how much, and whether that is more than noise - in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fit3d_cli.pages.metrics import TASKS, Metric, metric, number, shown_first, signed
from fit3d_cli.report import Figure, Report, Row
from fit3d_cli.statistics import MIN_GROUPS

Outcome = Literal["better", "worse", "within noise", "equal", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """One model against the reference, by one metric.

    Attributes:
        metric: What was measured.
        model: The model that is judged.
        reference: The model it is judged against.
        value: Of the model.
        reference_value: Of the reference.
        figure: ``value - reference_value`` with its paired interval.
        over: What it was measured over, plural: ``images``, ``pairs``.
    """

    metric: Metric
    model: str
    reference: str
    value: float
    reference_value: float
    figure: Figure
    over: str

    @property
    def difference(self) -> float:
        """``value - reference_value``."""
        return self.figure.value

    @property
    def gain(self) -> float:
        """The difference with its sign turned so that positive is better."""
        return -self.difference if self.metric.higher_is_better is False else self.difference

    @property
    def gain_ends(self) -> tuple[float, float]:
        """The interval of ``gain``."""
        low, high = self.figure.low, self.figure.high
        return (-high, -low) if self.metric.higher_is_better is False else (low, high)

    @property
    def judged(self) -> bool:
        """Whether the interval rests on enough items."""
        return self.figure.has_interval and self.figure.n >= MIN_GROUPS

    @property
    def outcome(self) -> Outcome:
        """What may be claimed."""
        ends = (self.figure.low, self.figure.high) if self.figure.has_interval else (0.0, 0.0)
        if self.difference == 0 and ends == (0.0, 0.0):
            return "equal"
        if self.metric.higher_is_better is None or not math.isfinite(self.difference):
            return "undecided"
        if not self.judged:
            return "undecided"
        if self.figure.covers_zero:
            return "within noise"
        return "better" if self.gain > 0 else "worse"


def headline(report: Report) -> Metric | None:
    """The metric a report is judged by; None when none has a known direction."""
    names = shown_first(report.task, list(report.rows[0].figures)) if report.rows else []
    return metric(names[0]) if names else None


def all_names(report: Report) -> list[str]:
    """Metrics of any row, in the order of the rows."""
    return list(dict.fromkeys(name for row in report.rows for name in row.figures))


def reference_row(report: Report) -> Row | None:
    """The row that others are judged against: ``base``, or else the first."""
    return next((row for row in report.rows if row.model == "base"), next(iter(report.rows), None))


def comparisons(report: Report) -> list[Comparison]:
    """Every other model against the reference by every metric that both have."""
    base = reference_row(report)
    return [
        Comparison(
            metric(name), row.model, base.model, figure.value, base.figures[name].value,
            row.differences[name], report.over,
        )
        for row in report.rows
        if base is not None and row is not base
        for name, figure in row.figures.items()
        if name in base.figures and name in row.differences
    ]  # fmt: skip


def best_models(report: Report, name: str) -> set[str]:
    """Models with the best value of a metric; empty when its direction is unknown."""
    values = {
        row.model: row.metrics[name]
        for row in report.rows
        if math.isfinite(row.metrics.get(name, math.nan))
    }
    direction = metric(name).higher_is_better
    if direction is None or len(values) < 2:
        return set()
    best = max(values.values()) if direction else min(values.values())
    return {model for model, value in values.items() if value == best}


def clear_winner(report: Report, name: str) -> str:
    """The best model where that is more than noise: it beats the reference, or all lose to it.

    Among several that beat it, the best one's interval must lie beyond those of the others: only
    differences to the reference are measured, so this asks for more than is needed.
    """
    base, best = reference_row(report), best_models(report, name)
    found = {c.model: c for c in comparisons(report) if c.metric.name == name}
    if base is None or len(best) != 1:
        return ""
    (model,) = best
    if model == base.model:
        return model if {c.outcome for c in found.values()} == {"worse"} else ""
    if model not in found or found[model].outcome != "better":
        return ""
    rivals = [c for c in found.values() if c.model != model and c.figure.has_interval]
    beyond = all(found[model].gain_ends[0] > rival.gain_ends[1] for rival in rivals)
    return model if beyond else ""


def task_title(report: Report) -> str:
    """``Segmentation on camvid``."""
    return f"{TASKS.get(report.task, report.task)} on {report.dataset}"


def sentence(comparison: Comparison) -> str:
    """``tuned is better than base: mIoU ↑ 0.481 against 0.452, +0.029 (95 % interval ...)``."""
    c = comparison
    claim = {
        "better": f"{c.model} is better than {c.reference}",
        "worse": f"{c.model} is worse than {c.reference}",
        "within noise": f"{c.model} and {c.reference} are within noise of each other",
        "equal": f"{c.model} and {c.reference} are equal",
        "undecided": f"{c.model} is {'ahead of' if c.gain > 0 else 'behind'} {c.reference}, "
        "but nothing says how surely",
    }[c.outcome]
    if c.metric.higher_is_better is None or not math.isfinite(c.difference):
        claim = f"{c.model} and {c.reference} cannot be ranked"
    figures = (
        f"{c.metric.label} {number(c.value)} against {number(c.reference_value)}, "
        f"{signed(c.difference)}"
    )
    return f"{claim}: {figures} ({basis(c)})."


def basis(comparison: Comparison) -> str:
    """What the claim rests on: the interval, or why there is none."""
    figure, over = comparison.figure, comparison.over
    if not figure.has_interval:
        few = f" in fewer than {MIN_GROUPS} groups" if figure.n >= MIN_GROUPS else ""
        return f"no interval: {figure.n} {over}{few}"
    ends = f"95 % interval {signed(figure.low)} to {signed(figure.high)} over {figure.n} {over}"
    return ends if comparison.judged else f"{ends}: too few to judge"


def summary_rows(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """One plain row per model and report, by the report's headline metric.

    Returns:
        Dicts with ``task``, ``dataset``, ``model``, ``metric``, ``arrow``, ``value`` with its
        interval ``value_low`` and ``value_high``, ``difference`` to the reference model with its
        interval ``low`` and ``high`` (None where there is none), ``count`` and ``over`` what
        items, ``best`` (see ``clear_winner``) and ``verdict``: an ``Outcome`` or ``reference``.
    """
    rows: list[dict[str, Any]] = []
    for report in reports:
        judged = headline(report)
        base = reference_row(report)
        if judged is None or base is None:
            continue
        by_model = {c.model: c for c in comparisons(report) if c.metric.name == judged.name}
        for row in report.rows:
            found = by_model.get(row.model)
            figure = row.figures.get(judged.name)
            rows.append(
                {
                    "task": report.task,
                    "dataset": report.dataset,
                    "model": row.model,
                    "metric": judged.label,
                    "arrow": judged.arrow,
                    "value": _finite(figure.value) if figure else None,
                    "value_low": _finite(figure.low) if figure else None,
                    "value_high": _finite(figure.high) if figure else None,
                    "difference": _finite(found.difference) if found else None,
                    "low": _finite(found.figure.low) if found else None,
                    "high": _finite(found.figure.high) if found else None,
                    "count": figure.n if figure else 0,
                    "over": report.over,
                    "best": row.model == clear_winner(report, judged.name),
                    "verdict": found.outcome if found else "reference" if row is base else "",
                }
            )
    return rows


def tally(reports: Sequence[Report], model: str) -> str:
    """One sentence over all reports for one model, empty when nothing was measured for it."""
    outcomes: list[Outcome] = []
    for report in reports:
        judged = headline(report)
        outcomes += [
            c.outcome
            for c in comparisons(report)
            if c.model == model and judged is not None and c.metric.name == judged.name
        ]
    if not outcomes:
        return ""
    words = {
        "better": "better on {}",
        "worse": "worse on {}",
        "within noise": "within noise on {}",
        "equal": "equal on {}",
        "undecided": "not decided on {}",
    }
    parts = [
        words[outcome].format(outcomes.count(outcome)) for outcome in words if outcome in outcomes
    ]
    total = len(outcomes)
    return f"{model} against base, {total} {'task' if total == 1 else 'tasks'}: {', '.join(parts)}."


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
