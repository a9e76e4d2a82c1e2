"""The values of single items: which metric, which models, who is worst, best, moved the most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fit3d_cli.pages.html import Markup, Node, el, name
from fit3d_cli.pages.metrics import Metric, metric, number, signed
from fit3d_cli.pages.pictures import Shown, figure
from fit3d_cli.pages.tables import row, table
from fit3d_cli.pages.verdict import headline, reference_row
from fit3d_cli.report import Report

WORST, BEST, MOVED = 6, 3, 4
_SIDE = 240
_STANDS_FOR = {"seg": "image_miou", "transfer": "pck@0.10 of a pair"}


@dataclass(frozen=True)
class Items:
    """Per-item values of one report by one metric.

    Attributes:
        metric: The headline metric, or what stands for it item by item.
        names: What the items are called, in their order.
        values: By model, one value per item; NaN: not scored.
        reference: Name of the model that others are judged against.
        judged: The model whose worst and best items are shown: ``tuned``, else the first other
            model, else the reference.
        over: What an item is, plural.
    """

    metric: Metric
    names: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    reference: str
    judged: str
    over: str

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.metric.higher_is_better is False else 1

    def gains(self, model: str) -> list[float]:
        """Per item how much better ``model`` is than the reference; NaN where not scored."""
        pairs = zip(self.values[model], self.values[self.reference], strict=True)
        return [self.sign * (ours - theirs) for ours, theirs in pairs]

    def ranked(self) -> list[int]:
        """Scored items, worst of the judged model first; ties in the order of the data."""
        values = self.values[self.judged]
        known = [i for i, value in enumerate(values) if math.isfinite(value)]
        return sorted(known, key=lambda i: (self.sign * values[i], i))

    def chosen(self) -> tuple[list[int], list[int]]:
        """The worst and the best items that are shown, never the same one twice."""
        ranked = self.ranked()
        worst = ranked[:WORST]
        return worst, ranked[::-1][: min(BEST, len(ranked) - len(worst))]


def items_of(report: Report) -> Items | None:
    """The per-item values that a page shows; None where the report has none of all models."""
    base = reference_row(report)
    if base is None:
        return None
    first = headline(report)
    wanted = [first.name] if first else []
    wanted += [_STANDS_FOR[report.task]] if report.task in _STANDS_FOR else []
    wanted += [n for n in base.samples if metric(n).higher_is_better is not None and ":" not in n]
    count = {len(values) for one in report.rows for values in one.samples.values()}
    found = next((n for n in wanted if all(n in one.samples for one in report.rows)), None)
    if found is None or len(count) != 1:
        return None
    (size,) = count
    names = report.items if len(report.items) == size else _numbered(report.over, size)
    models = [one.model for one in report.rows]
    others = [model for model in models if model != base.model]
    judged = "tuned" if "tuned" in others else others[0] if others else base.model
    values = {one.model: tuple(one.samples[found]) for one in report.rows}
    return Items(metric(found), tuple(names), values, base.model, judged, report.over)


def _numbered(over: str, count: int) -> tuple[str, ...]:
    singular = over.removesuffix("s") or "item"
    return tuple(f"{singular} {i + 1}" for i in range(count))


def extremes(items: Items, show: Callable[[int], Sequence[Shown]] | None = None) -> list[Markup]:
    """Worst items first, then best, each with its values and, where there are any, pictures.

    Args:
        items: Of a report.
        show: Pictures of an item, by its index.
    """
    worst, best = items.chosen()
    parts: list[Markup] = []
    for title, chosen in (("Worst", worst), ("Best", best)):
        if not chosen:
            continue
        parts.append(el("h3", f"{title} for ", name(items.judged), f", by {items.metric.label}"))
        if show is None:
            parts.append(_table(items, chosen))
        else:
            parts.append(el("div", [_card(items, i, show(i)) for i in chosen], class_="items"))
    return parts


def moved(items: Items) -> Markup | None:
    """Where the judged model lost and gained the most against the reference."""
    if items.judged == items.reference:
        return None
    gains = items.gains(items.judged)
    known = sorted((i for i, g in enumerate(gains) if math.isfinite(g)), key=lambda i: gains[i])
    lost = [i for i in known if gains[i] < 0][:MOVED]
    won = [i for i in reversed(known) if gains[i] > 0][:MOVED]
    parts = [
        el("div", el("h3", title), _table(items, chosen))
        for title, chosen in (
            (f"Lost most against {items.reference}", lost),
            (f"Gained most against {items.reference}", won),
        )
        if chosen
    ]
    return el("div", parts, class_="pair") if parts else None


def _models(items: Items) -> list[str]:
    return [items.reference, *([items.judged] if items.judged != items.reference else [])]


def _table(items: Items, chosen: Sequence[int]) -> Markup:
    models = _models(items)
    rows = []
    for i in chosen:
        cells: list[Node] = [number(items.values[model][i]) for model in models]
        if len(models) == 2:
            cells.append(_delta(items, i))
        rows.append(row(name(items.names[i]), cells))
    head: list[Node] = [items.over.removesuffix("s").capitalize(), *map(name, models)]
    return table([*head, *(["Difference"] if len(models) == 2 else [])], rows)


def _delta(items: Items, index: int) -> Markup:
    gain = items.gains(items.judged)[index]
    style = "better" if gain > 0 else "worse" if gain < 0 else ""
    return el("span", signed(items.sign * gain), class_=f"delta {style}".strip())


def _card(items: Items, index: int, pictures: Sequence[Shown]) -> Markup:
    figures = [
        el("span", name(model), " ", el("b", number(values[index])))
        for model, values in items.values.items()
    ]
    return el(
        "article",
        el("p", name(items.names[index]), class_="name"),
        el("p", figures, class_="values small"),
        el("div", [figure(one, items.names[index], _SIDE) for one in pictures], class_="strip"),
        class_="item",
    )
