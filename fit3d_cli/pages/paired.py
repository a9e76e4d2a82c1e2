"""Item by item: a model against the reference as a scatter and as sorted differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from fit3d_cli.pages.axes import Frame, grid, short, span, ticks
from fit3d_cli.pages.html import Markup, el, name
from fit3d_cli.pages.items import Items
from fit3d_cli.pages.metrics import number, signed

# More points are not told apart; they would fill the page.
T = TypeVar("T")
MAX_POINTS = 1200
_WIDTH, _HEIGHT = 400, 300


def paired(items: Items, model: str) -> Markup | None:
    """Drawings and a sentence for one model; None where fewer than two items were scored.

    Values that are only right or wrong are counted, not drawn.
    """
    pairs = [
        (theirs, ours)
        for theirs, ours in zip(items.values[items.reference], items.values[model], strict=True)
        if math.isfinite(theirs) and math.isfinite(ours)
    ]
    if len(pairs) < 2:
        return None
    gains = [items.sign * (ours - theirs) for theirs, ours in pairs]
    if {value for pair in pairs for value in pair} <= {0.0, 1.0}:
        return _counted(items, model, pairs)
    return el(
        "figure",
        el(
            "div",
            _scatter(items, model, pairs),
            _differences(items, model, gains),
            class_="plots",
        ),
        el("figcaption", _told(items, model, gains)),
        class_="chart",
    )


def _told(items: Items, model: str, gains: Sequence[float]) -> list[Markup | str]:
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    equal = len(gains) - better - worse
    middle = sorted(gains)[len(gains) // 2]
    ties = f", equal on {equal}" if equal else ""
    return [
        name(model),
        f" is better on {better} of {len(gains)} {items.over}, worse on {worse}{ties}; "
        f"median difference {signed(items.sign * middle)} {items.metric.label}.",
    ]


def _counted(items: Items, model: str, pairs: Sequence[tuple[float, float]]) -> Markup:
    """How often both, one or none of two models are right."""
    reference = items.reference
    kinds = (
        ("both right", "both", (1.0, 1.0)), (f"only {model} right", "better", (0.0, 1.0)),
        (f"only {reference} right", "worse", (1.0, 0.0)), ("none right", "none", (0.0, 0.0)),
    )  # fmt: skip
    counts = [(label, style, sum(pair == kind for pair in pairs)) for label, style, kind in kinds]
    at, parts = 0.0, []
    for _, style, count in counts:
        width = 800 * count / len(pairs)
        parts.append(el("rect", class_=f"share {style}", x=f"{at:.1f}", y=0,
                        width=f"{width:.1f}", height=26))  # fmt: skip
        at += width
    label = ", ".join(f"{words}: {count}" for words, _, count in counts)
    keys = [
        el("span", el("i", class_=f"key {style}"), f"{words}: {count}")
        for words, style, count in counts
    ]
    return el(
        "figure",
        el("svg", parts, viewBox="0 0 800 26", class_="shares", role="img", aria_label=label,
           preserveAspectRatio="none"),
        el("figcaption", keys, class_="keys"),
        class_="chart",
    )  # fmt: skip


def _scatter(items: Items, model: str, pairs: Sequence[tuple[float, float]]) -> Markup:
    ends = span([value for pair in pairs for value in pair])
    # Equal units on both axes, so that the diagonal is where the models agree.
    frame = Frame(46, 24, 250, 250, ends, ends)
    marks = ticks(*ends)
    parts = grid(frame, marks, marks, short)
    corner = [frame.at_x(ends[0]), frame.at_y(ends[0]), frame.at_x(ends[1]), frame.at_y(ends[1])]
    parts.append(el("line", class_="even", x1=corner[0], y1=corner[1], x2=corner[2], y2=corner[3]))
    for theirs, ours in _thinned(sorted(pairs)):
        gain = items.sign * (ours - theirs)
        style = "better" if gain > 0 else "worse" if gain < 0 else "even"
        parts.append(
            el("circle", class_=f"point {style}", cx=f"{frame.at_x(theirs):.1f}",
               cy=f"{frame.at_y(ours):.1f}", r=3)
        )  # fmt: skip
    where = "above" if items.sign > 0 else "below"
    parts.append(el("text", f"{_fit(model)} against {_fit(items.reference)}", class_="title",
                    x=0, y=12))  # fmt: skip
    parts.append(el("text", f"{where} the line:", x=308, y=44))
    parts.append(el("text", f"{_fit(model)} better", x=308, y=58))
    label = f"{items.metric.label} of {len(pairs)} {items.over}: {model} against {items.reference}"
    return _svg(parts, label)


def _differences(items: Items, model: str, gains: Sequence[float]) -> Markup:
    values = _thinned(sorted(gains))
    half = max(map(abs, values)) or 1.0
    frame = Frame(52, 24, 340, 250, (0.0, float(len(values))), (-half * 1.05, half * 1.05))
    parts = grid(frame, [], ticks(*frame.y), lambda v: short(items.sign * v))
    zero = frame.at_y(0.0)
    wide = 0.86 if len(values) <= 100 else 1.0  # few bars stand apart
    for style, sign in (("worse", -1), ("better", 1)):
        path = "".join(
            f"M{frame.at_x(i):.1f} {zero:.1f}V{frame.at_y(g):.1f}H{frame.at_x(i + wide):.1f}"
            f"V{zero:.1f}Z"
            for i, g in enumerate(values)
            if g * sign > 0
        )
        if path:
            parts.append(el("path", class_=f"bars {style}", d=path))
    parts.append(el("line", class_="axis", x1=frame.left, x2=frame.left + frame.width,
                    y1=f"{zero:.1f}", y2=f"{zero:.1f}"))  # fmt: skip
    parts.append(el("text", f"Difference of each of {len(gains)}, sorted", class_="title",
                    x=0, y=12))  # fmt: skip
    parts.append(el("text", "up: better", x=392, y=12, text_anchor="end"))
    label = (
        f"Sorted differences of {items.metric.label}, {model} minus {items.reference}: from "
        f"{number(min(gains))} to {number(max(gains))}, positive is better"
    )
    return _svg(parts, label)


def _svg(parts: Sequence[Markup], label: str) -> Markup:
    return el("svg", parts, class_="plot", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
              aria_label=label)  # fmt: skip


def _thinned(values: Sequence[T]) -> Sequence[T]:
    """At most ``MAX_POINTS`` of sorted values, evenly spread, both ends kept."""
    if len(values) <= MAX_POINTS:
        return values
    return [values[i * (len(values) - 1) // (MAX_POINTS - 1)] for i in range(MAX_POINTS)]


def _fit(model: str) -> str:
    return model if len(model) <= 14 else f"{model[:13]}…"
