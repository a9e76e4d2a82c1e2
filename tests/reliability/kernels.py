"""The compiled kernels: degenerate scenes under sanitizers, and wrong arguments from Python."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.reliability.base import CannotRun, Outcome, Trial, check

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "sanitize"
CHUNK = 10_000  # scenes per process; finished ones are remembered


@check(
    "kernels-sanitizers",
    area="Kernels",
    promise="No scene, however degenerate, makes the kernels touch memory that is not theirs.",
    goal="100,000 degenerate scenes under ASan + UBSan, each against a double oracle: 0 reports",
    small=False,  # tests/splat/test_sanitize.py runs the first 300
)
def sanitizers(trial: Trial) -> Outcome:
    if not (shutil.which("make") and shutil.which(os.environ.get("CXX", "g++"))):
        raise CannotRun("needs make and a C++ compiler with the address sanitizer")
    make = ["make", "-s", "-j2", "FLAVOUR=asan", f"BUILD={BUILD}"]
    subprocess.run(make, cwd=ROOT / "kernels" / "tests", check=True)
    program = BUILD / "asan" / "fuzz"
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    record = BUILD / f"asan-{digest[:16]}.json"
    done = json.loads(record.read_text()) if record.exists() else {}
    scenes = trial.size(100_000, 100)
    size = min(CHUNK, scenes)
    outcome = Outcome(cases=scenes)

    def chunk(first: int) -> None:
        key = f"{trial.seed + first}+{size}"
        if key not in done:
            words = [program, "check", str(size), str(trial.seed + first)]
            run = subprocess.run(words, capture_output=True, text=True)
            outcome.require(run.returncode == 0, f"seed {first}: {run.stderr[-300:]}")
            if run.returncode == 0:
                done[key] = run.stdout.strip()
                record.write_text(json.dumps(done, indent=1))

    # The program is threaded, but not everywhere: two of them keep two cores busy.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(chunk, range(0, scenes, size)))
    outcome.figure = f"{scenes:,} scenes, {len(outcome.broken)} reports"
    return outcome


@check(
    "kernels-boundary",
    area="Kernels",
    promise="A wrong array handed to a compiled kernel is a Python exception, not a crash.",
    goal="10,000 wrong calls: TypeError or ValueError, no crash, no reference lost",
)
def boundary(trial: Trial) -> Outcome:
    calls = trial.size(10_000, 600)
    began = time.monotonic()
    words = [sys.executable, "-m", "tests.reliability._wrong_calls", str(calls), str(trial.seed)]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    outcome = Outcome()
    outcome.require(run.returncode == 0, f"ended with {run.returncode}: {run.stderr[-500:]}")
    if run.returncode == 0:
        told = json.loads(run.stdout)
        outcome.cases = told["calls"]
        outcome.broken += told["broken"]
        outcome.figure = (
            f"{told['calls']:,} wrong calls of {told['functions']} functions: {told['refused']:,}"
            f" refused, {told['harmless']:,} harmless, 0 crashes,"
            f" {told['references']} references lost, {time.monotonic() - began:.0f} s"
        )
    return outcome
