"""Differences and their intervals as a small inline drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fit3d_cli.pages.html import Markup, el
from fit3d_cli.pages.metrics import signed
from fit3d_cli.pages.verdict import Comparison, basis

_WIDTH, _HEIGHT, _MIDDLE = 250, 34, 13


def reach(comparisons: Sequence[Comparison]) -> float:
    """Half width of a common axis for differences of one metric."""
    ends = [abs(end) for c in comparisons for end in (c.difference, c.figure.low, c.figure.high)]
    return max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0


def forest(comparison: Comparison, half: float) -> Markup | None:
    """Dot and whiskers around zero; right is always better.

    Args:
        comparison: What to draw.
        half: Difference at either end of the axis.

    Returns:
        An inline SVG; None where nothing can be drawn.
    """
    c = comparison
    if not math.isfinite(c.difference) or c.metric.higher_is_better is None:
        return None
    sign = 1 if c.metric.higher_is_better else -1
    style = c.outcome.replace(" ", "-")

    def x(difference: float) -> str:
        return f"{_WIDTH / 2 + sign * difference / half * (_WIDTH / 2 - 12):.1f}"

    marks = [
        el("line", class_="axis", x1=0, x2=_WIDTH, y1=_MIDDLE, y2=_MIDDLE),
        el("line", class_="zero", x1=_WIDTH / 2, x2=_WIDTH / 2, y1=1, y2=_HEIGHT - 10),
    ]
    if c.figure.has_interval:
        marks.append(
            el(
                "line", class_=f"bar {style}", x1=x(c.figure.low), x2=x(c.figure.high),
                y1=_MIDDLE, y2=_MIDDLE,
            )
        )  # fmt: skip
    marks.append(el("circle", class_=f"dot {style}", cx=x(c.difference), cy=_MIDDLE, r=5))
    marks.append(el("text", "0", x=_WIDTH / 2, y=_HEIGHT, text_anchor="middle"))
    marks.append(el("text", "better →", x=_WIDTH, y=_HEIGHT, text_anchor="end"))
    marks.append(el("text", "← worse", x=0, y=_HEIGHT))
    label = f"{c.model} minus {c.reference}: {signed(c.difference)}, {basis(c)}"
    return el(
        "svg", marks, class_="forest", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
        aria_label=label,
    )  # fmt: skip
