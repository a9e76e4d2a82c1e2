"""Round numbers for the axes of inline drawings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fit3d_cli.pages.html import Markup, el

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Frame:
    """The plotting area of a drawing, in its own units, and the values at its edges.

    Attributes:
        left: Of the area.
        top: Of the area.
        width: Of the area.
        height: Of the area.
        x: Values at the left and right edge.
        y: Values at the bottom and top edge.
    """

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * self.width

    def at_y(self, value: float) -> float:
        """Vertical place of a value."""
        low, high = self.y
        return self.top + self.height - (value - low) / (high - low) * self.height


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values inside ``low .. high``, about ``count`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in _STEPS if s * scale >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def span(values: Sequence[float], *, margin: float = 0.05) -> tuple[float, float]:
    """Lowest and highest finite value, with a margin; never empty."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    extra = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - extra, high + extra


def grid(frame: Frame, xs: Sequence[float], ys: Sequence[float],
         text: Callable[[float], str]) -> list[Markup]:  # fmt: skip
    """Grid lines with their numbers, below and to the left."""
    parts: list[Markup] = []
    bottom, right = frame.top + frame.height, frame.left + frame.width
    for value in ys:
        y = f"{frame.at_y(value):.1f}"
        parts.append(el("line", class_="grid", x1=frame.left, x2=right, y1=y, y2=y))
        parts.append(el("text", text(value), x=frame.left - 6, y=y, text_anchor="end",
                        dominant_baseline="middle"))  # fmt: skip
    for value in xs:
        x = f"{frame.at_x(value):.1f}"
        parts.append(el("line", class_="grid", x1=x, x2=x, y1=frame.top, y2=bottom))
        parts.append(el("text", text(value), x=x, y=bottom + 14, text_anchor="middle"))
    return parts


def short(value: float) -> str:
    """A tick's number, as short as it is exact."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        return f"{value:.2g}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")
