"""Measured results: figures with their uncertainty, JSON in and out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fit3d_cli.errors import ArchiveError

# 2: every figure carries its count and interval, and its paired difference to the reference row.
SCHEMA = 2
# A note that begins so questions the figures themselves; summaries repeat it.
CAUTION = "caution: "


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        value: The figure over all items; for a difference, ours minus the reference's.
        n: Items (images, pairs, points) that it rests on.
        low: Lower end of the 95 % bootstrap interval; NaN where there is none (fewer than 2
            items, or than 6 groups of items that are alike).
        high: Upper end.
    """

    value: float
    n: int
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def covers_zero(self) -> bool:
        """Whether the data are compatible with zero at this level."""
        return not self.has_interval or self.low <= 0 <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is not finite is null."""
        return {
            "value": _finite(self.value), "n": self.n,
            "low": _finite(self.low), "high": _finite(self.high),
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Figure:
        """The inverse of ``to_dict``."""
        return Figure(
            _number(data["value"]), int(data["n"]), _number(data["low"]), _number(data["high"])
        )


@dataclass(frozen=True)
class Row:
    """What one model measured; made by ``statistics.make_rows``.

    Attributes:
        model: ``base``, ``tuned``, ``concat``, ...
        figures: Lower-case metric names to figures over the whole split.
        differences: The same names to the paired difference to the report's reference row; empty
            for that row itself.
        samples: Per-item values of the figures that are means over items, in dataset order;
            NaN where an item was not scored.
    """

    model: str
    figures: Mapping[str, Figure]
    differences: Mapping[str, Figure] = field(default_factory=dict)
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The values alone."""
        return {name: figure.value for name, figure in self.figures.items()}


@dataclass(frozen=True)
class Report:
    """One probe on one dataset.

    Attributes:
        task: ``seg``, ``depth``, ``corr``, ...
        dataset: Registered name, or the capture's name.
        rows: One per model, in the order asked for; the first ``base`` row, else the first row, is
            the reference of all differences.
        count: Items scored.
        over: What an item is, plural: ``images``, ``pairs``, ``videos``.
        settings: Settings that differ from the defaults.
        notes: What a reader must know to judge the figures.
        drift: ``cosine`` and ``norm_ratio`` of tuned to base tokens on pictures of the scored
            split; empty when only one model was measured.
        seed: Of all draws.
        items: What the scored items are called, in the order of the samples; empty where unknown.
    """

    task: str
    dataset: str
    rows: tuple[Row, ...]
    count: int
    over: str = "images"
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    drift: Mapping[str, Figure] = field(default_factory=dict)
    seed: int = 0
    items: tuple[str, ...] = ()

    @property
    def cautions(self) -> tuple[str, ...]:
        """What no summary of the figures may leave out."""
        return tuple(n.removeprefix(CAUTION) for n in self.notes if n.startswith(CAUTION))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the schema version."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "dataset": self.dataset,
            "count": self.count,
            "over": self.over,
            "rows": [
                {
                    "model": row.model,
                    "figures": _figures_out(row.figures),
                    "differences": _figures_out(row.differences),
                    "samples": {k: [_finite(v) for v in vs] for k, vs in row.samples.items()},
                }
                for row in self.rows
            ],
            "drift": _figures_out(self.drift),
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "seed": self.seed,
            "items": list(self.items),
        }

    @staticmethod
    def from_json(text: str, *, where: str) -> Report:
        """Parse what ``to_dict`` made.

        Raises:
            ArchiveError: Not a report, or one of another schema.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise ArchiveError(
                    f"report schema {data['schema']}, this version reads {SCHEMA}",
                    where=where,
                    hint="run the probe again",
                )
            rows = tuple(
                Row(
                    str(row["model"]),
                    _figures_in(row["figures"]),
                    _figures_in(row["differences"]),
                    {str(k): tuple(map(_number, v)) for k, v in row["samples"].items()},
                )
                for row in data["rows"]
            )
            return Report(
                str(data["task"]), str(data["dataset"]), rows, int(data["count"]),
                str(data["over"]), dict(data["settings"]), tuple(map(str, data["notes"])),
                _figures_in(data["drift"]), int(data.get("seed", 0)),
                tuple(map(str, data.get("items", ()))),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError,
                RecursionError) as error:  # fmt: skip
            raise ArchiveError(
                "not a fit3d report", where=where, hint="delete it and run the probe again"
            ) from error


def _figures_out(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.to_dict() for name, figure in figures.items()}


def _figures_in(data: Mapping[str, Any]) -> dict[str, Figure]:
    return {str(name): Figure.from_dict(entry) for name, entry in data.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
