"""Measured results: JSON in and out, one table row per model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fit3d_cli.errors import ArchiveError

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """What one model measured.

    Attributes:
        model: ``base``, ``tuned`` or ``concat``.
        metrics: Lower-case metric names to values over the whole split.
        samples: Per-image values of the metrics that are means over images, in dataset order;
            confidence intervals come from these.
    """

    model: str
    metrics: Mapping[str, float]
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """One probe on one dataset.

    Attributes:
        task: ``seg``, ``depth``, ...
        dataset: Registered name, or the capture's name.
        rows: One per model, in the order asked for.
        count: Images scored.
        settings: Settings that differ from the defaults.
        notes: What a reader must know to judge the figures.
    """

    task: str
    dataset: str
    rows: tuple[Row, ...]
    count: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the schema version."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "dataset": self.dataset,
            "count": self.count,
            "rows": [
                {
                    "model": row.model,
                    "metrics": dict(row.metrics),
                    "samples": {key: list(values) for key, values in row.samples.items()},
                }
                for row in self.rows
            ],
            "settings": dict(self.settings),
            "notes": list(self.notes),
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
                    {str(k): float(v) for k, v in row["metrics"].items()},
                    {str(k): tuple(map(float, v)) for k, v in row["samples"].items()},
                )
                for row in data["rows"]
            )
            return Report(
                str(data["task"]), str(data["dataset"]), rows, int(data["count"]),
                dict(data["settings"]), tuple(map(str, data["notes"])),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(
                "not a fit3d report", where=where, hint="delete it and run the probe again"
            ) from error
