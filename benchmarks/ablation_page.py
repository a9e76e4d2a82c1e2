"""Tables of the ablation page, from the JSON of ``benchmarks.ablations``.

The prose of the page is written by hand; only what stands between ``<!-- NAME -->`` and
``<!-- end -->`` is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.ablation_rows import ROWS, TABLES, TASKS, Row

# What a table shows of the reports: task, figure, heading.
FIGURES = (
    ("corr", "recall@1patch", "recall"),
    ("corr", "recall@1patch:30-60deg", "recall, 30-60°"),
    ("depth", "rmse", "depth RMSE, m"),
    ("seg", "miou", "CamVid mIoU"),
)
_LIFTED = ("dim", "solver", "resolution")  # tables that show what the lift cost
_MIB = 2**20
_BLOCK = re.compile(r"(<!-- ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, result: Mapping[str, Any]) -> str:
    """The page with its tables made anew.

    Args:
        page: Markdown with blocks ``<!-- NAME -->`` ... ``<!-- end -->``; NAME is ``protocol``,
            ``missing`` or a key of ``TABLES``.
        result: What ``benchmarks.ablations`` wrote.

    Raises:
        ValueError: A table has no block, or a block no table.
    """
    makers = {name: partial(table, result, name) for name in TABLES}
    makers |= {"protocol": partial(protocol, result), "missing": partial(missing, result)}
    found = [match[1] for match in _BLOCK.findall(page)]
    if sorted(found) != sorted(makers):
        odd = sorted(set(makers).symmetric_difference(found)) or found
        raise ValueError(f"blocks of the page and tables differ: {', '.join(odd)}")
    return _BLOCK.sub(lambda match: f"{match[1]}{makers[match[2]]()}\n{match[3]}", page)


def protocol(result: Mapping[str, Any]) -> str:
    """The shared settings, what the first lift took, and the machine's load."""
    lines = [f"- {verb}: `{' '.join(words)}`" for verb, words in result["protocol"].items()]
    machine = result["machine"]
    runs = [row["tune"] for row in result["rows"].values() if "tune" in row]
    runs += [run for lift in result["lifts"].values() for run in lift["captures"].values()]
    loads = [load for run in runs for load in run["load"]]
    if loads:
        lines.append(
            f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread "
            f"used; load average while it ran {min(loads):.1f} to {max(loads):.1f} (other work): "
            f"wall seconds were {_wall(runs):.1f} times the CPU seconds"
        )
    if "base" in result["lifts"]:
        cost = _lift_cost(result["lifts"]["base"])
        lines.append(f"- first lift, with geometry and tokens: {cost[0]} CPU-s, peak {cost[1]} MiB")
    return "\n".join(lines)


def table(result: Mapping[str, Any], name: str) -> str:
    """Markdown of one table: the base first, then one line per row that was run."""
    lifted = name in _LIFTED
    heads = [
        TABLES[name].lower(),
        *(head for *_, head in FIGURES),
        "cosine to base",
        "norm to base",
    ]
    heads += ["lift CPU-s", "lift MiB", "archives MB", "held-out cosine"] * lifted
    heads += ["tune CPU-s", "tune MiB"]
    lines: list[str] = []
    for row in (r for r in ROWS if r.table == name):
        made = _made(result, row)
        if "corr" not in made.get("reports", {}) or (lifted and row.variant not in result["lifts"]):
            continue
        reports = made["reports"].values()
        models = list(dict.fromkeys(line["model"] for r in reports for line in r["rows"]))
        if not lines:
            figures = [_cell(made, task, "base", figure) for task, figure, _ in FIGURES]
            rest = len(heads) - len(figures) - 1
            lines.append(_line(["base", *figures, *([""] * rest)]))
        shown = models[1:] if name == "assembly" else ["tuned"]
        for model in shown:
            label = model if name == "assembly" else row.label
            cells = [_cell(made, task, model, figure) for task, figure, _ in FIGURES]
            drift = made["reports"]["corr"]["drift"]
            kept = [f"{drift[name]['value']:.3f}" for name in ("cosine", "norm_ratio")]
            cost = [*_lift_cost(result["lifts"][row.variant])] if lifted else []
            tune = made["tune"]
            cost += [f"{tune['cpu_seconds']:.0f}", f"{tune['peak_bytes'] / _MIB:.0f}"]
            lines.append(_line([label, *cells, *kept, *cost]))
    if not lines:
        return "Not run."
    return "\n".join([_line(heads), "|" + "---|" * len(heads), *lines])


def missing(result: Mapping[str, Any]) -> str:
    """The rows that have no figures, and why."""
    lines = []
    for row in ROWS:
        made = _made(result, row)
        absent = [task for task in TASKS if task not in made.get("reports", {})]
        if absent:
            why = "failed" if "error" in made else "not run"
            part = "" if absent == [*TASKS] else f" ({', '.join(absent)})"
            lines.append(f"- {TABLES[row.table].lower()}, {row.label}: {why}{part}")
    return "\n".join(lines) or "None."


def _made(result: Mapping[str, Any], row: Row) -> Mapping[str, Any]:
    made: Mapping[str, Any] = result["rows"].get(row.same_as or row.name, {})
    return made


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(made: Mapping[str, Any], task: str, model: str, figure: str) -> str:
    """A value with the interval of its difference to the base; ``noise`` where it covers zero."""
    rows = {row["model"]: row for row in made["reports"].get(task, {}).get("rows", [])}
    found = rows.get(model, {}).get("figures", {}).get(figure)
    if found is None or found["value"] is None:
        return "-"
    shown = f"{found['value']:.3f}"
    difference = rows[model]["differences"].get(figure)
    if model == "base" or difference is None or difference["low"] is None:
        return shown
    noise = ", noise" if difference["low"] <= 0 <= difference["high"] else ""
    return f"{shown} ({difference['low']:+.3f} to {difference['high']:+.3f}{noise})"


def _lift_cost(lift: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """CPU seconds, peak MiB, MB of all archives, mean cosine on the held-out views."""
    captures = list(lift["captures"].values())
    cosines = [c["feature_cosine_heldout"] for c in captures]
    return (
        f"{sum(c['cpu_seconds'] for c in captures):.0f}",
        f"{max(c['peak_bytes'] for c in captures) / _MIB:.0f}",
        f"{sum(c['archive_bytes'] for c in captures) / 1e6:.1f}",
        f"{sum(cosines) / len(cosines):.3f}",
    )


def _wall(runs: list[Mapping[str, Any]]) -> float:
    wall, used = (sum(float(run[key]) for run in runs) for key in ("seconds", "cpu_seconds"))
    return wall / used
