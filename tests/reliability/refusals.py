"""Every wrong input that has a name: one line that helps, soon, and nothing written."""

from __future__ import annotations

import contextlib
import dis
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from fit3d_cli.pictures import decode
from tests.faults.cases import CASES
from tests.faults.ground import Ground, Refusal
from tests.faults.world import write_world
from tests.reliability.base import Outcome, Trial, check

SLOWEST = 2.0  # seconds of processor time, what is imported aside
EVERY = 8  # of the cases that need no lifted scene, one in so many at the small size


@check(
    "refusals",
    area="Hostile and broken input",
    promise="Wrong input ends in exit code 2 or 3 and one line that names the file or option and "
    "what to do, before anything is written; also under python -O",
    goal=">= 120 named cases: one line of <= 240 characters, <= 2 s, no file written",
)
def run_refusals(trial: Trial) -> Outcome:
    """Whole: all cases in this interpreter and in an optimised one; small: some in the latter."""
    outcome = Outcome()
    optimised = "python -O" if trial.whole else "dropped assertions"
    results = {optimised: in_another(trial.folder / "optimised", whole=trial.whole)}
    if trial.whole:
        results["python"] = tried(trial.folder / "plain", list(CASES))
    worst, longest = 0.0, 0
    for interpreter, refusals in results.items():
        for name, refusal in refusals.items():
            outcome.cases += 1
            worst, longest = max(worst, refusal.seconds), max(longest, refusal.length)
            for broken in refusal.broken:
                outcome.require(False, f"{interpreter}, {name}: {broken}")
            outcome.require(
                refusal.seconds <= SLOWEST, f"{interpreter}, {name}: {refusal.seconds:.1f} s"
            )
    outcome.figure = (
        f"{' and '.join(f'{len(r)} cases under {i}' for i, r in results.items())}: 0 files "
        f"written, at most {longest} characters and {worst:.2f} s"
    )
    return outcome


def tried(folder: Path, names: list[str], *, lifted: bool = True) -> dict[str, Refusal]:
    """The cases in one world; each a second time if it was slow, for what it imported."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = Ground(write_world(folder / "w", lifted=lifted), folder / "spare")
    results = {}
    for name in names:
        results[name] = ground.refusal(CASES[name])
        if results[name].seconds > SLOWEST / 2:
            results[name] = ground.refusal(CASES[name])
    return results


def in_another(folder: Path, *, whole: bool) -> dict[str, Refusal]:
    """The cases in an interpreter that drops assertions; a few that need no scene if not whole."""
    words = [sys.executable, *["-O"] * whole, "-m", "tests.reliability._optimised", str(folder)]
    home = Path(__file__).resolve().parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(home), "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(
        [*words, str(EVERY if not whole else 1)], stdout=subprocess.PIPE, text=True, check=True,
        env=environment,
    )  # fmt: skip
    answers = json.loads(ended.stdout.splitlines()[-1])
    return {name: Refusal(**answer) for name, answer in answers.items()}


def main() -> None:
    """``_optimised FOLDER EVERY``: the refusals, as JSON."""
    import torch

    torch.set_num_threads(1)
    if assertions():
        sys.exit("assertions are not dropped")
    every = int(sys.argv[2])
    light = [n for n, case in CASES.items() if case.line.startswith("lift") and "out" not in n]
    names = list(CASES) if every == 1 else light[::every]
    results = tried(Path(sys.argv[1]), names, lifted=every == 1)
    print(json.dumps({name: asdict(refusal) for name, refusal in results.items()}))


def assertions() -> bool:
    """Whether fit3d's own assertions are looked at."""
    return any(step.opname == "LOAD_ASSERTION_ERROR" for step in dis.get_instructions(decode))
