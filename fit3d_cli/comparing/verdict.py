"""Which model is better, by how much, and whether that is more than noise - in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fit3d_cli.comparing.intervals import Interval, paired_bootstrap
from fit3d_cli.comparing.metrics import HEADLINES, RELATIVES, TASKS, Metric, metric, number, signed
from fit3d_cli.report import Report, Row

Outcome = Literal["better", "worse", "within noise", "equal", "no interval"]

# With fewer pairs even a unanimous result happens by chance more often than one time in twenty
# (sign test: 2 / 2**5 = 0.06).
MIN_IMAGES = 6


@dataclass(frozen=True)
class Comparison:
    """One model against the reference, by one metric.

    Attributes:
        metric: What was measured.
        model: The model that is judged.
        reference: The model it is judged against.
        value: Of the model.
        reference_value: Of the reference.
        interval: Of ``value - reference_value``; None without per-image samples.
        relative: The per-image metric that the interval is of, where ``metric`` itself has no
            value per image (``miou`` is one figure of a whole split).
    """

    metric: Metric
    model: str
    reference: str
    value: float
    reference_value: float
    interval: Interval | None
    relative: Metric | None = None

    @property
    def difference(self) -> float:
        """``value - reference_value``."""
        return self.value - self.reference_value

    @property
    def gain(self) -> float:
        """The difference with its sign turned so that positive is better."""
        return -self.difference if self.metric.higher_is_better is False else self.difference

    @property
    def outcome(self) -> Outcome:
        """What may be claimed."""
        spread = (self.interval.low, self.interval.high) if self.interval else (0.0, 0.0)
        if self.difference == 0 and spread == (0.0, 0.0):
            return "equal"
        if self.metric.higher_is_better is None or not math.isfinite(self.difference):
            return "no interval"
        if self.interval is None or self.interval.count < MIN_IMAGES:
            return "no interval"
        if self.interval.covers_zero or self.interval.difference * self.difference <= 0:
            return "within noise"
        return "better" if self.gain > 0 else "worse"


def headline(report: Report) -> Metric | None:
    """The metric a report is judged by; None when none has a known direction."""
    names = [name for name in report.rows[0].metrics] if report.rows else []
    for wanted in HEADLINES:
        for name in names:
            if name.lower().split("@")[0] == wanted:
                return metric(name)
    known = (metric(name) for name in names)
    return next((m for m in known if m.higher_is_better is not None), None)


def reference_row(report: Report) -> Row | None:
    """The row that others are judged against: ``base``, or else the first."""
    return next((row for row in report.rows if row.model == "base"), next(iter(report.rows), None))


def comparisons(report: Report, *, seed: int = 0) -> list[Comparison]:
    """Every other model against the reference by every metric that both have."""
    base = reference_row(report)
    found = []
    for row in report.rows:
        if base is None or row is base:
            continue
        for name, value in row.metrics.items():
            if name not in base.metrics:
                continue
            used = name if name in row.samples else RELATIVES.get(name, name)
            found.append(
                Comparison(
                    metric(name),
                    row.model,
                    base.model,
                    value,
                    base.metrics[name],
                    _interval(row.samples.get(used, ()), base.samples.get(used, ()), seed),
                    None if used == name else metric(used),
                )
            )
    return found


def _interval(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Interval | None:
    if not ours or len(ours) != len(theirs):
        return None
    return paired_bootstrap(ours, theirs, seed=seed)


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
        "no interval": f"{c.model} is {'ahead of' if c.gain > 0 else 'behind'} {c.reference}, "
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
    interval = comparison.interval
    if interval is None:
        return "no interval: the metric has no value per image"
    c = comparison
    shown = f"{c.relative.label} {signed(interval.difference)}, " if c.relative else ""
    shown += (
        f"{interval.level * 100:.0f} % interval {signed(interval.low)} to {signed(interval.high)} "
        f"over {interval.count} images"
    )
    return shown if interval.count >= MIN_IMAGES else f"{shown}: too few to judge"


def summary_rows(reports: Sequence[Report], *, seed: int = 0) -> list[dict[str, Any]]:
    """One plain row per model and report, by the report's headline metric.

    Returns:
        Dicts with ``task``, ``dataset``, ``model``, ``metric``, ``arrow``, ``value``,
        ``difference`` to the reference model with its interval ``low`` and ``high`` (None where
        there is none), ``images``, ``best`` and ``verdict``, which is an ``Outcome`` or
        ``reference``.
    """
    rows: list[dict[str, Any]] = []
    for report in reports:
        judged = headline(report)
        base = reference_row(report)
        if judged is None or base is None:
            continue
        by_model = {
            c.model: c for c in comparisons(report, seed=seed) if c.metric.name == judged.name
        }
        for row in report.rows:
            found = by_model.get(row.model)
            interval = found.interval if found else None
            rows.append(
                {
                    "task": report.task,
                    "dataset": report.dataset,
                    "model": row.model,
                    "metric": judged.label,
                    "arrow": judged.arrow,
                    "value": _finite(row.metrics.get(judged.name)),
                    "difference": _finite(found.difference) if found else None,
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                    "images": report.count,
                    "best": row.model in best_models(report, judged.name),
                    "verdict": found.outcome if found else "reference" if row is base else "",
                }
            )
    return rows


def tally(reports: Sequence[Report], model: str, *, seed: int = 0) -> str:
    """One sentence over all reports for one model, empty when nothing was measured for it."""
    outcomes: list[Outcome] = []
    for report in reports:
        judged = headline(report)
        outcomes += [
            c.outcome
            for c in comparisons(report, seed=seed)
            if c.model == model and judged is not None and c.metric.name == judged.name
        ]
    if not outcomes:
        return ""
    words = {
        "better": "better on {}",
        "worse": "worse on {}",
        "within noise": "within noise on {}",
        "equal": "equal on {}",
        "no interval": "not decided on {}",
    }
    parts = [
        words[outcome].format(outcomes.count(outcome)) for outcome in words if outcome in outcomes
    ]
    total = len(outcomes)
    return f"{model} against base, {total} {'task' if total == 1 else 'tasks'}: {', '.join(parts)}."


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
