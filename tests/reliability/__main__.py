"""``python -m tests.reliability``: run the checks, each in a process of its own; one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.reliability.base import CannotRun, Check, Trial, all_checks
from tests.reliability.table import RESULTS, page, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("names", nargs="*", help="checks to run, or the start of their names")
    parser.add_argument("--small", action="store_true", help="the sizes of make test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="only list the checks")
    parser.add_argument("--page", type=Path, help="put the table of the last results into a page")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    checks = all_checks()
    wanted = [
        c for c in checks.values() if not given.names or c.name.startswith(tuple(given.names))
    ]
    if given.list:
        print("\n".join(f"{c.name:24} {c.promise}" for c in wanted))
        return 0
    if given.page:
        page(given.page, checks)
        return 0
    if not wanted:
        print(f"no check is called {' or '.join(given.names)}: see --list", file=sys.stderr)
        return 2
    if given.one:
        print(json.dumps(run_here(checks[given.names[0]], not given.small, given.seed)))
        return 0
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = 0
    for number, one in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {one.name}: {one.promise}", file=sys.stderr, flush=True)
        result = run_apart(one, given.small, given.seed)
        failed += result["state"] == "broken"
        print(f"    {result['state']}: {result['figure']} ({result['seconds']:.0f} s)",
              file=sys.stderr, flush=True)  # fmt: skip
        for line in result["broken"][:10]:
            print(f"    {line}", file=sys.stderr, flush=True)
        if not given.small:
            known[one.name] = result
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    if not given.small:
        print(table({c.name: c for c in wanted}, known))
    return 1 if failed else 0


def run_apart(one: Check, small: bool, seed: int) -> dict[str, Any]:
    """The result of a check in a process of its own, which may crash."""
    began = time.monotonic()
    words = [sys.executable, "-m", "tests.reliability", one.name, "--one", "--seed", str(seed)]
    ended = subprocess.run(words + ["--small"] * small, stdout=subprocess.PIPE, text=True)
    try:
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        result = {"state": "broken", "figure": f"the check ended with {ended.returncode}",
                  "cases": 0, "broken": []}  # fmt: skip
    return {**result, "seconds": round(time.monotonic() - began, 1), "seed": seed}


def run_here(one: Check, whole: bool, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fit3d-reliability-") as folder:
        try:
            outcome = one.run(Trial(Path(folder), whole, seed))
        except CannotRun as lack:
            return {"state": "not run", "figure": str(lack), "cases": 0, "broken": []}
    state = "broken" if outcome.broken else "holds"
    return {"state": state, "figure": outcome.figure, "cases": outcome.cases,
            "broken": outcome.broken}  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
