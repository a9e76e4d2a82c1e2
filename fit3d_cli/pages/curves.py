"""Curves over the steps of a training, as inline drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fit3d_cli.pages.axes import Frame, grid, short, span, ticks
from fit3d_cli.pages.html import Markup, el
from fit3d_cli.pages.metrics import number

# More steps are averaged in equal parts; the pale band keeps their least and greatest value.
MAX_BINS = 240
_WIDTH, _HEIGHT = 400, 230


@dataclass(frozen=True)
class Curve:
    """Values over steps.

    Attributes:
        title: Short plain text.
        steps: Rising.
        values: One per step; what is not finite is left out.
        dots: Few points that are marked, joined by straight lines.
        noisy: Whether a running mean is drawn over the values.
        level: A value to compare with, drawn as a dashed line, and what it is.
    """

    title: str
    steps: Sequence[float]
    values: Sequence[float]
    dots: bool = False
    noisy: bool = False
    level: tuple[float, str] | None = None


def curve(one: Curve) -> Markup | None:
    """Draw a curve; None where fewer than two values are finite."""
    points = [(s, v) for s, v in zip(one.steps, one.values, strict=True) if math.isfinite(v)]
    if len(points) < 2:
        return None
    bins = _binned(points)
    seen = [v for _, _, low, high in bins for v in (low, high)]
    level = [one.level[0]] if one.level and math.isfinite(one.level[0]) else []
    frame = Frame(54, 26, 338, 176, (points[0][0], points[-1][0]), span([*seen, *level]))
    parts = grid(frame, ticks(*frame.x, 5), ticks(*frame.y), short)
    line = [(frame.at_x(s), frame.at_y(mean)) for s, mean, _, _ in bins]
    if not one.dots and len(bins) < len(points):
        upper = [(frame.at_x(s), frame.at_y(high)) for s, _, _, high in bins]
        lower = [(frame.at_x(s), frame.at_y(low)) for s, _, low, _ in reversed(bins)]
        parts.append(el("path", class_="band", d=f"{_path([*upper, *lower])}Z"))
    elif one.noisy:
        parts.append(el("path", class_="raw", d=_path(line)))
    if one.noisy:
        means = [(step, mean) for step, mean, _, _ in bins]
        line = [(frame.at_x(s), frame.at_y(v)) for s, v in _smooth(means)]
    parts.append(el("path", class_="line", d=_path(line)))
    if one.dots:
        parts += [el("circle", class_="knot", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4) for x, y in line]
    if one.level and level:
        y = f"{frame.at_y(level[0]):.1f}"
        parts.append(el("line", class_="zero", x1=frame.left, x2=frame.left + frame.width,
                        y1=y, y2=y))  # fmt: skip
        parts.append(
            el("text", one.level[1], x=frame.left + frame.width, y=float(y) - 4, text_anchor="end")
        )
    parts.append(el("text", one.title, class_="title", x=0, y=12))
    parts.append(el("text", "step", x=frame.left + frame.width, y=_HEIGHT - 2, text_anchor="end"))
    label = (
        f"{one.title}, steps {points[0][0]:g} to {points[-1][0]:g}: from {number(points[0][1])} "
        f"to {number(points[-1][1])}"
    )
    return el("svg", parts, class_="plot", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
              aria_label=label)  # fmt: skip


def _binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Step, mean, least and greatest value of equal parts of the points."""
    size = -(-len(points) // MAX_BINS)
    bins = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part]
        middle = sum(step for step, _ in part) / len(part)
        bins.append((middle, math.fsum(values) / len(values), min(values), max(values)))
    return bins


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A running mean over a twentieth of the points, centred."""
    half = max(1, len(points) // 40)
    made = []
    for i, (step, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)  # symmetric, so that the ends do not lean
        part = [value for _, value in points[i - reach : i + reach + 1]]
        made.append((step, math.fsum(part) / len(part)))
    return made


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
