"""Work that cannot fit is refused before it begins; the estimates are held against the truth."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from fit3d_cli.lifting.preflight import lift_sizes
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import LiftSettings
from tests.reliability._talking import Talking
from tests.reliability.base import Outcome, Trial, check

ROOT = Path(__file__).resolve().parents[2]
BOUND = 2.0  # seconds from the command to its refusal
MIB = 1 << 20
TOLD = re.compile(r"needs about [\d.]+ [kMG]?B of (disk|memory), [\d.]+ [kMG]?B are free")
SIZES = ("lift.backbone.width=96", "lift.geometry.width=96", "lift.heldout=0.2")
SMALL = ("lift.geometry.iterations=30", "lift.geometry.init_gaussians=1000",
         "lift.geometry.max_gaussians=1000", "lift.features.dim=16")  # fmt: skip
HUGE = ("lift.geometry.init_gaussians=20000000", "lift.geometry.max_gaussians=20000000")


class Confined:
    """The process of ``_confined.py``."""

    def __init__(self, folder: Path) -> None:
        self.answer = folder / "answer"
        self.talking = Talking("tests.reliability._confined")
        self.close = self.talking.close

    def run(self, *argv: str | Path, **confines: Any) -> dict[str, Any]:
        job = {"argv": [str(word) for word in argv], "answer": str(self.answer), **confines}
        made: dict[str, Any] = self.talking.ask(job)
        return made


def sets(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def tree(folder: Path) -> dict[str, int]:
    """Files below a folder, with their sizes; none of what a lock or a log leaves is excused."""
    if not folder.exists():
        return {}
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def refused(name: str, kind: str, made: dict[str, Any], outcome: Outcome) -> None:
    said = [line for line in made["said"].splitlines() if line.startswith("fit3d: error")]
    outcome.require(made["code"] == 3, f"{name}: exit {made['code']}: {made['said'][-300:]}")
    found = TOLD.search(said[0]) if len(said) == 1 else None
    outcome.require(found is not None and found[1] == kind, f"{name}: {said}")
    outcome.require(bool(said) and " - " in said[0], f"{name}: no remedy: {said}")
    outcome.require(made["seconds"] < BOUND, f"{name}: after {made['seconds']:.1f} s")


def refusals(trial: Trial, process: Confined, world: Path, outcome: Outcome) -> tuple[int, float]:
    """Every verb with too little disk or memory; returns how many and the slowest."""
    room, done = world / "room", world / "out"
    scene, backbone = done / "scenes" / "room.f3d", ("--backbone", "room-tiny")
    lift = ["lift", room, *backbone, *sets(*SIZES)]
    cases: list[tuple[str, str, list[str | Path], dict[str, int], Path]] = [
        ("lift", "disk", [*lift, *sets(*SMALL)], {"disk": MIB // 4}, world / "a"),
        ("lift", "memory", [*lift, *sets(*HUGE)], {"memory": 600 * MIB}, world / "b"),
        ("lift of several", "disk", ["lift", world / "rooms", *backbone, *sets(*SIZES, *SMALL),
                                     *sets("lift.isolate=never")],
         {"disk": MIB // 4}, world / "c"),
        ("demo", "disk", ["demo"], {"disk": 10 * MIB}, world / "d"),
        ("render", "disk", ["render", scene, "--what", "rgb,depth,features", "--views", "all",
                            "--width", "2000"], {"disk": 20 * MIB}, world / "e"),
        ("finetune", "disk", ["finetune", scene, "--captures", world], {"disk": MIB}, world / "f"),
        ("finetune", "memory", ["finetune", scene, "--captures", world],
         {"memory": 100 * MIB}, world / "g"),
        ("probe", "disk", ["probe", "corr", room, *backbone, "--models", "base",
                           *sets("probe.backbone.width=96")], {"disk": MIB // 4}, world / "h"),
    ]  # fmt: skip
    if not scene.exists():
        cases = cases[:2]
    slowest = 0.0
    for name, kind, argv, confines, place in cases:
        made = process.run(*argv, "--workspace", place, "--device", "cpu", **confines)
        if name == "lift of several":
            outcome.require(made["code"] in (1, 3) and len(TOLD.findall(made["said"])) >= 1,
                            f"{name}: {made['code']}: {made['said'][-300:]}")  # fmt: skip
        else:
            refused(f"{name}, {kind}", kind, made, outcome)
        outcome.require(not tree(place), f"{name}, {kind}: wrote {tree(place)}")
        slowest = max(slowest, made["seconds"])
    return len(cases), slowest


def on_a_small_disk(world: Path, outcome: Outcome) -> int:
    """A filesystem of one megabyte, where the system lets us mount one."""
    place = world / "tmpfs"
    place.mkdir()
    argv = ["lift", world / "room", "--backbone", "room-tiny", *sets(*SIZES, *SMALL),
            "--workspace", place / "out"]  # fmt: skip
    words = [sys.executable, "-m", "fit3d_cli", *map(str, argv)]
    script = (
        'mount -t tmpfs -o size=300k tmpfs "$0" && "$@"; code=$?; find "$0" -type f; exit $code'
    )
    made = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(place), *words],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
    )  # fmt: skip
    if "unshare" in made.stderr or "mount:" in made.stderr:
        return 0
    outcome.require(made.returncode == 3 and bool(TOLD.search(made.stderr)), made.stderr[-300:])
    outcome.require(not made.stdout.strip(), f"left {made.stdout}")
    return 1


def held_against(
    trial: Trial, process: Confined, world: Path, outcome: Outcome
) -> tuple[list[float], list[float]]:
    """Estimate through use, of memory for lifts and trainings, of disk for lifts."""
    lifts = [("small", 6, (*SIZES, *SMALL))]
    if trial.whole:
        lifts += [
            ("wide", 12, ("lift.backbone.width=384", "lift.geometry.width=192", *SMALL)),
            ("many", 50, (*SIZES, *SMALL)),
            ("dense", 6, (*SIZES, "lift.geometry.iterations=30", "lift.features.dim=64",
                          "lift.geometry.init_gaussians=100000",
                          "lift.geometry.max_gaussians=100000")),
        ]  # fmt: skip
    memory, disk = [], []
    for name, views, values in lifts:
        room = world / f"lift-{name}" / "room"
        width = 192 if name == "wide" else 96
        write_room(room, 1, views=views, width=width, height=width * 3 // 4)
        place = world / f"lift-{name}" / "out"
        made = process.run("lift", room, "--backbone", "room-tiny", *sets(*values),
                           "--workspace", place, "--device", "cpu", **{"try": True})  # fmt: skip
        outcome.require(made["code"] == 0, f"lift {name}: {made['said'][-300:]}")
        if made["code"] == 0:
            (needs,) = made["needs"]
            memory.append(needs["memory"] / max(made["used"], 1))
            disk.append(needs["disk"] / sum(tree(place).values()))
    # One view at once: what is refused counts the smallest micro-batch that a step is cut to.
    for batch in (1, 4) if trial.whole else ():
        scenes = world / "lift-wide" / "out" / "scenes" / "room.f3d"
        options = ("finetune.max_steps=2", f"finetune.batch={batch}", "finetune.micro_batch=1")
        made = process.run(
            "finetune", scenes, "--captures", world / "lift-wide", "--device", "cpu",
            "--workspace", world / f"tune-{batch}", *sets(*options), **{"try": True},
        )  # fmt: skip
        outcome.require(made["code"] == 0, f"finetune {batch}: {made['said'][-300:]}")
        if made["code"] == 0:
            (needs,) = made["needs"]
            memory.append(needs["memory"] / max(made["used"], 1))
    return memory, disk


def growing(outcome: Outcome) -> None:
    """More of anything never needs less."""

    def needs(views: int, **changes: Any) -> Any:
        settings = LiftSettings.model_validate(changes)
        return lift_sizes([(640, 480)] * views, settings, 14, 384).needs(gpu=False)

    least = needs(20)
    for changes in ({"geometry": {"max_gaussians": 10**7, "init_gaussians": 10**7}},
                    {"geometry": {"width": 640}}, {"features": {"dim": 512}},
                    {"backbone": {"width": 1400}}, {"backbone": {"batch": 64}}):  # fmt: skip
        more = needs(20, **changes)
        grown = more.memory >= least.memory and more.disk >= least.disk and more != least
        outcome.require(grown, f"{changes}: {more} is not more than {least}")
    bounded = [needs(views, memory=64).memory for views in (1000, 100_000)]
    outcome.require(bounded[0] == bounded[1], f"memory grows with the views: {bounded}")


@check(
    "preflight",
    area="Resources",
    promise="Work that needs more disk or memory than there is, is refused before it begins, with"
    " need and have, and nothing is written",
    goal="<= 2 s after import, exit 3, nothing written",
)
def run(trial: Trial) -> Outcome:
    outcome = Outcome()
    world = trial.folder
    write_room(world / "room", 0, views=10, width=96, height=72)
    shutil.copytree(world / "room", world / "rooms" / "one")
    shutil.copytree(world / "room", world / "rooms" / "two")
    process = Confined(world)
    try:
        if trial.whole:
            made = process.run("lift", world / "room", "--backbone", "room-tiny",
                               *sets(*SIZES, *SMALL), "--workspace", world / "out")  # fmt: skip
            outcome.require(made["code"] == 0, f"the scene: {made['said'][-300:]}")
        count, slowest = refusals(trial, process, world, outcome)
        memory, disk = held_against(trial, process, world, outcome)
    finally:
        process.close()
    growing(outcome)
    mounted = on_a_small_disk(world, outcome) if trial.whole else 0
    outcome.require(all(ratio > 0.5 for ratio in memory), f"memory underestimated: {memory}")
    outcome.require(all(0.8 < ratio < 4 for ratio in disk), f"disk: {disk}")
    outcome.cases = count + mounted + len(memory)
    ratios = [f"{min(r):.2f} to {max(r):.2f}" if r else "-" for r in (memory, disk)]
    outcome.figure = (
        f"{count + mounted} refusals, slowest {slowest:.2f} s; estimate / used of {len(memory)}"
        f" runs: memory {ratios[0]}, disk {ratios[1]}"
    )
    return outcome
