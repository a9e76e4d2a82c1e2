"""The results of the checks as one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.reliability.base import Check

RESULTS = Path("bench-out/reliability.json")
NOT_RUN: dict[str, Any] = {
    "state": "not run whole", "figure": "its small size runs in `make test`", "broken": [],
}  # fmt: skip
BEGIN, END = "<!-- results: make reliability -->", "<!-- end of results -->"


def table(checks: Mapping[str, Check], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: promise, goal, figure, whether it holds, the command."""
    lines = []
    areas = list(dict.fromkeys(check.area for check in checks.values()))
    area = ""
    for check in sorted(checks.values(), key=lambda check: areas.index(check.area)):
        if check.area != area:
            area = check.area
            lines += ["", f"### {area}", "", "| promise | goal | measured | | command |",
                      "|---|---|---|---|---|"]  # fmt: skip
        result = results.get(check.name, NOT_RUN)
        figure = result["figure"]
        if result["broken"]:
            figure += f"; NOT reached: {result['broken'][0]}"
            figure += f" (and {len(result['broken']) - 1} more)" * (len(result["broken"]) > 1)
        seconds = f", {result['seconds']:.0f} s" if "seconds" in result else ""
        lines.append(
            f"| {check.promise} | {check.goal} | {figure}{seconds} | {result['state']} "
            f"| `make reliability ONLY={check.name}` |"
        )
    return "\n".join([*lines, ""])


def page(path: Path, checks: Mapping[str, Check]) -> None:
    """Replace what stands between the two marks of a page."""
    import json

    text = path.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    path.write_text(f"{before}{BEGIN}\n{table(checks, results)}\n{END}{after}", "utf-8")
