"""Peak memory of one side, each in a fresh process.

    python -m benchmarks.memory MODULE FIGURE SIDE '{"scene": ...}'

MODULE must offer ``figures(setup)``. The peak is the kernel's high-water mark of the resident set
(``VmHWM``), reset just before the call; the growth is that peak less the resident set before it.
A fresh process, because memory that an earlier side freed may be used again unseen.
"""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.timing import Side

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> dict[str, int]:
    """``VmRSS`` and ``VmHWM`` of this process in bytes; empty where there is no ``/proc``."""
    if not _STATUS.is_file():
        return {}
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if words and words[0] in ("VmRSS:", "VmHWM:")
    }


def reset_peak() -> bool:
    """Set the high-water mark to what is resident now; False where the system cannot."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def measure(side: Side) -> dict[str, int] | None:
    """``{"growth_bytes", "peak_bytes"}`` of one call in this process, None if unknown."""
    gc.collect()
    if not reset_peak():
        return None
    before = resident()["VmRSS"]
    kept = side()
    peak = resident()["VmHWM"]
    del kept
    return {"growth_bytes": max(peak - before, 0), "peak_bytes": peak}


def measure_apart(module: str, figure: str, side: str, setup: dict[str, Any]) -> Any:
    """``measure`` in a fresh process.

    Args:
        module: Such as ``benchmarks.splat``.
        figure: Identifier of a figure of ``module.figures(setup)``.
        side: One of its sides.
        setup: As a JSON object, passed on to the process.
    """
    words = ["-m", "benchmarks.memory", module, figure, side, json.dumps(setup)]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{figure}, {side}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure one side here and print the result."""
    module, figure, side, setup = sys.argv[1:]
    from benchmarks.options import Setup

    sides = importlib.import_module(module).figures(Setup.from_json(setup))[figure].sides
    print(json.dumps(measure(sides[side])))


if __name__ == "__main__":
    main()
