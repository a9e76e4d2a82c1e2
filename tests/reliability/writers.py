"""Processes that want to write the same things at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from fit3d_cli.archive import describe, verify_archive
from fit3d_cli.errors import Fit3dError
from fit3d_cli.rooms import write_room
from fit3d_cli.workspace import Workspace
from tests.faults.world import SMALL, write_model
from tests.reliability._crowd import KEYS, SCENES, name_of
from tests.reliability._saving import litter
from tests.reliability._traced import ROOT, saver
from tests.reliability.base import Outcome, Trial, check

PROCESSES = 8
REAL = 4


@check(
    "writers",
    area="Concurrency",
    promise="Runs that share a workspace make every scene once: who comes second waits, says for "
    "whom, and finds it finished; a run that is killed lets the next one in.",
    goal="8 processes, 500 rounds: 0 torn files, 0 scenes made twice, 0 lost updates, 0 deadlocks",
)
def many_writers(trial: Trial) -> Outcome:
    outcome = Outcome()
    rounds = trial.size(500, 10)
    scenes, count, told = crowd(outcome, trial, "crowd", rounds, plant=False)
    planted = Outcome()
    crowd(planted, trial, "planted", 2, plant=True)
    outcome.require(bool(planted.broken), "not found: a lock that locks nothing")
    outcome.cases = rounds * PROCESSES
    outcome.figure = (
        f"{PROCESSES} processes, {rounds} rounds, {scenes} scenes: each made once, "
        f"{count['skipped']} times found finished, {count['told to wait']} waits told, "
        f"{told['killed']} holders of a lock killed, {count['reads']} archives read meanwhile; "
        f"{len(outcome.broken)} torn, doubled or lost"
    )
    if trial.whole:
        real_lifts(outcome, trial.folder / "real", REAL)
        outcome.figure += f"; {REAL} times 3 runs of fit3d lift at once: each scene made once"
    return outcome


def crowd(
    outcome: Outcome, trial: Trial, name: str, rounds: int, *, plant: bool
) -> tuple[int, Counter[str], Counter[str]]:
    """Let the processes write, then look at what is there."""
    root = trial.folder / name
    root.mkdir()
    saves = saver()
    job = {
        "do": "call", "module": "tests.reliability._crowd", "folder": str(root), "plant": plant,
        "told": str(root / "told"), "rounds": rounds, "processes": PROCESSES,
        "seed": trial.seed, "patience": trial.size(1200, 120),
    }  # fmt: skip
    code = saves.wait(saves.start(**job))
    outcome.require(code == 0, f"the writers ended with {code}")
    told = Counter[str](json.loads((root / "told").read_text()) if code == 0 else {})
    outcome.require(not told["hung"], f"{told['hung']} processes hung")
    outcome.require(not told["failed"], f"{told['failed']} processes failed")
    torn = (root / "torn").read_text().splitlines() if (root / "torn").exists() else []
    outcome.require(not torn, f"{len(torn)} torn reads: {torn[:1]}")
    made = Counter((root / "made").read_text().split() if (root / "made").exists() else [])
    names = [name_of(r, s) for r in range(rounds) for s in range(SCENES)]
    for scene in names:
        outcome.require(made[scene] == 1, f"{scene} was made {made[scene]} times")
        path = root / "ws/scenes" / f"{scene}.f3d"
        try:
            verify_archive(path)
            plan = describe(path)["provenance"]["plan"]
        except Fit3dError as error:
            plan = str(error)
        outcome.require(plan == f"plan of {scene}", f"{scene}: {plan}")
    place = Workspace(root / "ws")
    known = place.captures()
    for scene in names:
        outcome.require(scene in known, f"the capture of {scene} is forgotten")
    for number in range(PROCESSES):
        for round_ in range(max(0, rounds - KEYS), rounds):
            value = known.get(f"mine-{number}-{round_ % KEYS}")
            outcome.require(value == Path(f"/rooms/{round_}"), f"process {number} lost {round_}")
    place.sweep()
    for path in litter(place.root):
        outcome.require(False, f"{path.name} is left")
    count = Counter[str]()
    if (root / "counts").exists():
        for line in (root / "counts").read_text().splitlines():
            count.update(json.loads(line))
    count["reads"] = int((root / "reads").read_text())
    return len(names), count, told


def real_lifts(outcome: Outcome, folder: Path, times: int) -> None:
    """Three runs of the command line at once on the same rooms of one workspace."""
    folder.mkdir()
    (folder / "small.toml").write_text(SMALL)
    write_model(folder / "tiny", 1)
    for number in range(2):
        write_room(folder / f"rooms/room-{number}", number, views=4, width=48, height=32)
    for time in range(times):
        line = [
            "lift", folder / "rooms", "--backbone", folder / "tiny", "--device", "cpu", "--json",
            "--profile", folder / "small.toml", "--workspace", folder / f"out-{time}",
        ]  # fmt: skip
        runs = [
            subprocess.Popen(
                [sys.executable, "-m", "fit3d_cli", *map(str, line)], cwd=ROOT,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
            for _ in range(3)
        ]  # fmt: skip
        made = Counter[str]()
        for run in runs:
            out, err = run.communicate(timeout=300)
            outcome.require(run.returncode == 0, f"fit3d lift ended {run.returncode}: {err[-300:]}")
            for scene in json.loads(out)["scenes"] if run.returncode == 0 else []:
                made[scene["name"]] += not scene["skipped"]
        outcome.require(set(made.values()) == {1}, f"fit3d lift made {dict(made)}")
        left = litter(folder / f"out-{time}")
        outcome.require(not left, f"fit3d lift left {left[:1]}")
