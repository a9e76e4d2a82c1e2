"""Figures, their goals and verdicts; the JSON that holds them and the table that shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "fit3d-bench/1"


@dataclass(frozen=True)
class Line:
    """One row of the table: a ratio or a bound, what was hoped for, and the verdict.

    Attributes:
        figure: Identifier, such as ``forward``.
        what: In words.
        ours: Name of our side.
        against: Name of the other side, empty for a bound.
        value: The ratio (times) or the bounded quantity.
        unit: ``x``, ``s``, ``GB`` or ``abs``.
        goal: The number to reach, None where there is none.
        better: ``higher`` or ``lower``.
        notes: What else the reader must know, in the table's last column.
    """

    figure: str
    what: str
    ours: str
    against: str
    value: float | None
    unit: str = "x"
    goal: float | None = None
    better: str = "higher"
    notes: str = ""

    @property
    def verdict(self) -> str:
        """``reached``, ``missed``, ``not measured``, or empty where there is no goal."""
        if self.value is None:
            return "not measured"
        if self.goal is None:
            return ""
        higher = self.better == "higher"
        reached = self.value >= self.goal if higher else self.value <= self.goal
        return "reached" if reached else "missed"


@dataclass
class Record:
    """Everything that was measured for one figure.

    Attributes:
        figure: Identifier.
        what: In words.
        rounds: Timed repeats of each side.
        sides: By name: times, ``memory`` (None if not measured).
        errors: By side: differences from our side's result.
        lines: Rows of the table.
        extra: Anything else.
    """

    figure: str
    what: str
    rounds: int
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with each line's verdict."""
        return {**asdict(self), "lines": [{**asdict(x), "verdict": x.verdict} for x in self.lines]}


def report(
    kind: str,
    machine: Mapping[str, Any],
    setup: Mapping[str, Any],
    scene: Mapping[str, Any],
    records: list[Record],
) -> dict[str, Any]:
    """The JSON object of one command."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": dict(machine),
        "setup": dict(setup),
        "scene": dict(scene),
        "figures": [record.to_json() for record in records],
    }


def check(result: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless an object is a result of this schema."""
    if result.get("schema") != SCHEMA:
        raise ValueError(f"schema {result.get('schema')!r}, expected {SCHEMA!r}")
    for name in ("kind", "written", "machine", "setup", "scene", "figures"):
        if name not in result:
            raise ValueError(f"{name} is missing")
    for name in ("cpu", "threads", "versions", "commit", "load_average"):
        if name not in result["machine"]:
            raise ValueError(f"machine.{name} is missing")
    for figure in result["figures"]:
        for side, record in figure["sides"].items():
            times = record["seconds"]
            if not times or len(times) != figure["rounds"] or min(times) < 0:
                raise ValueError(f"{figure['figure']}, {side}: {len(times)} times")
        for line in figure["lines"]:
            if line["verdict"] not in ("reached", "missed", "not measured", ""):
                raise ValueError(f"{figure['figure']}: verdict {line['verdict']!r}")


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the JSON."""
    check(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


_HEAD = ("what", "ours", "against", "value", "goal", "verdict", "repeats", "error", "notes")


def table(results: list[Mapping[str, Any]]) -> str:
    """All lines of some results as text, columns aligned."""
    rows = [_HEAD]
    for result in results:
        for figure in result["figures"]:
            rows += [_row(figure, line) for line in figure["lines"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    rows.insert(1, tuple("-" * width for width in widths))
    cells = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(c.ljust(w) for c, w in row).rstrip() for row in cells)


def _row(figure: Mapping[str, Any], line: Mapping[str, Any]) -> tuple[str, ...]:
    sides, errors = figure["sides"], figure["errors"]
    error = errors.get(line["against"]) or errors.get(line["ours"]) or {}
    goal = ""
    if line["goal"] is not None:
        goal = (">= " if line["better"] == "higher" else "<= ") + _number(line["goal"])
    return (
        line["what"],
        _side(line["ours"], sides),
        _side(line["against"], sides),
        "" if line["value"] is None else f"{_number(line['value'])} {line['unit']}",
        goal,
        line["verdict"],
        str(figure["rounds"]) if sides else "",
        f"{error['max']:.1e}" if "max" in error else "",
        line["notes"],
    )


def _side(name: str, sides: Mapping[str, Any]) -> str:
    """``name 12.3 ms [11.9-13.0] +456 MB``: median, quartiles, peak memory; 10 s and more in s."""
    if name not in sides:
        return name
    side = sides[name]
    scale, unit = (1, "s") if side["median_s"] >= 10 else (1000, "ms")
    times = [scale * side[key] for key in ("median_s", "q1_s", "q3_s")]
    text = "{} {} {unit} [{}-{}]".format(name, *(_number(x) for x in times), unit=unit)
    memory = side.get("memory")
    return text + (f" +{memory['growth_bytes'] / 1e6:.0f} MB" if memory else "")


def _number(x: float) -> str:
    """Three figures, no exponent for ordinary sizes."""
    if x and abs(x) < 1e-2:
        return f"{x:.1e}"
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def header(result: Mapping[str, Any]) -> str:
    """Machine and scene in a few lines."""
    machine, scene = result["machine"], result["scene"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    load = ", ".join(f"{x:.2f}" for x in machine["load_average"])
    where = [machine.get("device", {}).get("name"), machine["cpu"]]
    changed = " with changes" if machine.get("dirty") else ""
    lines = [
        f"{', '.join(x for x in where if x)}, {machine['threads']} threads, load {load}; "
        f"{versions}; commit {machine['commit'][:12]}{changed}"
    ]
    if "pairs_per_pixel" in scene:
        lengths = scene["list_length"]
        lines.append(
            f"{scene.get('name') or scene['kind']}: {scene['gaussians']} Gaussians "
            f"({scene['visible']} visible), {scene['width']}x{scene['height']}, "
            f"{scene['pairs_per_pixel']:.1f} pairs per pixel, {scene['box_entries']} tile entries, "
            f"lists {lengths['q1']:.0f}/{lengths['median']:.0f}/{lengths['q3']:.0f}, "
            f"longest {lengths['max']:.0f}, alpha {scene['mean_alpha']:.3f}, "
            f"sha256 {scene['digest'][:12]}"
        )
    for figure in result["figures"]:
        same = figure["extra"].get("max_error_same_projection")
        if same:
            parts = ", ".join(f"{name} {error:.1e}" for name, error in same.items())
            lines.append(f"largest relative error from the same projected Gaussians: {parts}")
    return "\n".join(lines)
