"""A scan that crashes, hangs, diverges or cannot be read costs no other scan anything."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.base import Outcome, Trial, check

PLANTED = Path(__file__).with_name("_planted.py")
VIEWS, WIDTH, HEIGHT = 4, 48, 32
STALL = 8.0  # seconds; a step of these scenes takes a hundredth
RUN_LIMIT = 600.0


@dataclass(frozen=True)
class Kind:
    """A way to fail.

    Attributes:
        says: Part of the line that the user reads.
        code: Exit code of the scene alone.
        again: Whether another process may try it.
        log: Part of the log; empty: there is none.
    """

    says: str
    code: int
    again: bool = False
    log: str = ""


PLANTS = {
    "segfault": Kind("(signal SIGSEGV)", 4, True, "Segmentation fault"),
    "abort": Kind("(signal SIGABRT)", 4, True, "in abort"),
    "killed": Kind("for want of memory", 3, True, "attempt 1"),
    "left": Kind("(exit code 7)", 4, True, "attempt 1"),
    "memory": Kind("out of memory", 3, True, "DefaultCPUAllocator"),
    "asleep": Kind(f"no progress for {STALL:g} s in read capture", 3, True, "in asleep"),
    "stuck": Kind(f"no progress for {STALL:g} s in read capture", 3, True, "in stuck"),
    "exception": Kind("ZeroDivisionError: planted", 4, False, "in exception"),
    "nan depth": Kind("geometry: the fit diverged: its loss is nan at step 1 of", 2),
    "nan pixels": Kind("geometry: the fit diverged: its loss is nan at step 1 of", 2),
    "nan poses": Kind("not finite", 4, False, "not finite"),
    "diverges": Kind("geometry: the fit diverged: its loss is nan at step 1 of", 2),
}
FILES = {
    "cut photo": Kind("frame-000002.color.png", 2),
    "no photo": Kind("frame-000001.color.png", 2),
    "no poses": Kind("pose", 2),
    "nan intrinsics": Kind("intrinsics", 2),
}
KINDS = PLANTS | FILES


def spoil(room: Path, kind: str) -> None:
    """Damage the files of a capture."""
    if kind == "cut photo":
        photo = room / "frame-000002.color.png"
        photo.write_bytes(photo.read_bytes()[:200])
    elif kind == "no photo":
        (room / "frame-000001.color.png").write_bytes(b"")
    elif kind == "no poses":
        for path in room.glob("*.pose.txt"):
            path.write_text("nan " * 16)
    else:
        (room / "intrinsics.txt").write_text("nan 0 24\n0 30 16\n0 0 1\n")


class World:
    """Rooms, a tiny model, and what a run without any fault makes of them.

    Args:
        root: Where they go.
        count: Rooms.
    """

    def __init__(self, root: Path, count: int) -> None:
        from fit3d_cli.rooms import write_room
        from tests.faults.world import SMALL, write_model

        self.root, self.names = root, [f"room-{i:02}" for i in range(count)]
        (root / "small.toml").write_text(SMALL)
        write_model(root / "tiny", 1)
        for i, name in enumerate(self.names):
            write_room(root / "rooms" / name, i, views=VIEWS, width=WIDTH, height=HEIGHT)
        self.code, self.told, self.err = self.lift("clean", {}, isolate="never")
        self.clean = {name: self.archive("clean", name) for name in self.names}

    def lift(
        self, workspace: str, bad: dict[str, str], *, retries: int = 1, isolate: str = "auto"
    ) -> tuple[int, dict[str, Any], list[str]]:
        """Exit code, the object of ``--json`` and the lines on stderr of one command line."""
        from fit3d_cli import app

        paths = []
        for name in self.names:
            paths.append(self.root / "rooms" / name)
            if bad.get(name) in FILES:
                paths[-1] = self.root / f"{workspace}-bad" / name
                shutil.copytree(self.root / "rooms" / name, paths[-1])
                spoil(paths[-1], bad[name])
        argv = [
            "lift", *map(str, paths), "--backbone", str(self.root / "tiny"), "--json", "-q",
            "--profile", str(self.root / "small.toml"), "--workspace", str(self.root / workspace),
            "--device", "cpu", "--set", f"lift.isolate={isolate}", "--set", f"lift.stall={STALL}",
            "--set", f"lift.retries={retries}",
        ]  # fmt: skip
        out, err = io.StringIO(), io.StringIO()
        with planted(bad), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(argv)
        return code, json.loads(out.getvalue() or "{}"), err.getvalue().splitlines()

    def archive(self, workspace: str, name: str) -> bytes:
        path = self.root / workspace / "scenes" / f"{name}.f3d"
        return path.read_bytes() if path.exists() else b""


@contextlib.contextmanager
def planted(bad: dict[str, str]) -> Iterator[None]:
    """Let workers be started that have these faults in them."""
    from fit3d_cli.lifting import process

    usual = process.WORKER
    process.WORKER = [sys.executable, str(PLANTED), json.dumps(bad)]
    here = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLANTED.parents[2]), *([here] if here else [])])
    try:
        yield
    finally:
        process.WORKER = usual
        os.environ.pop("PYTHONPATH") if here is None else os.environ.update(PYTHONPATH=here)


def children() -> set[str]:
    """Processes that this one has."""
    return {pid for path in Path("/proc/self/task").glob("*/children")
            for pid in path.read_text().split()}  # fmt: skip


@dataclass
class Tally:
    """What the runs of a check came to."""

    runs: int = 0
    failed: int = 0
    good: int = 0
    tried: int = 0
    longest: float = 0.0


def examine(
    world: World,
    bad: dict[str, str],
    retries: int,
    outcome: Outcome,
    tally: Tally,
    secret: dict[str, str] | None = None,
) -> None:
    """One run with these scenes bad; whatever does not hold goes into ``outcome``.

    Args:
        world: What to lift.
        bad: Names of scenes and in what way they are bad.
        retries: Of each, at most.
        outcome: Is told what does not hold.
        tally: Counts.
        secret: More faults, which nobody expects.
    """
    label = f"run {tally.runs} ({', '.join(f'{k} {v}' for k, v in bad.items())}; {retries} retries)"
    workspace = f"run-{tally.runs}"
    before, began = children(), time.monotonic()
    code, told, err = world.lift(workspace, bad | (secret or {}), retries=retries)
    seconds = time.monotonic() - began
    rows = {row["name"]: row for row in told.get("scenes", [])}
    errors = [line for line in err if line.startswith("fit3d: error: ")]

    def require(good: bool, what: str) -> None:
        outcome.require(good, f"{label}: {what}")

    codes = [KINDS[kind].code for kind in bad.values()]
    require(code == (max(codes) if len(bad) == len(world.names) else 1), f"exit code {code}")
    require(list(rows) == world.names, f"rows {list(rows)}")
    require(len(errors) == len(bad), f"{len(errors)} lines of errors")
    require(not any("Traceback" in line for line in err), "a traceback on stderr")
    for name in world.names:
        row = rows.get(name, {})
        archive = world.archive(workspace, name)
        if name not in bad:
            require(row.get("error") is None, f"{name} failed: {row.get('error')}")
            require(archive == world.clean[name] != b"", f"{name} differs from the clean run")
            continue
        kind, says = KINDS[bad[name]], row.get("error") or ""
        line = next((line for line in errors if name in line), "")
        tries = 1 + retries * kind.again
        require(kind.says in says and name in says, f"{name}: the row says {says!r}")
        require(line == f"fit3d: error: {says}" and " - " in line, f"{name}: the line is {line!r}")
        require(row.get("attempts") == tries, f"{name}: {row.get('attempts')} attempts")
        require(archive == b"", f"{name} has an archive")
        log = Path(row.get("log") or os.devnull)
        if kind.log:
            require(kind.log in log.read_text("utf-8"), f"{name}: its log lacks {kind.log!r}")
            require(str(log) in says, f"{name}: the line does not name the log")
        else:
            require(row.get("log") is None, f"{name} has a log")
        tally.tried = max(tally.tried, row.get("attempts", 0))
    litter = [p for p in (world.root / workspace).rglob("*") if p.suffix in (".f3dtmp", ".lock")]
    require(not litter, f"left behind: {litter}")
    require(children() <= before, "a process is left behind")
    require(seconds < RUN_LIMIT, f"took {seconds:.0f} s")
    tally.runs += 1
    tally.failed += len(bad)
    tally.good += len(world.names) - len(bad)
    tally.longest = max(tally.longest, seconds)
    shutil.rmtree(world.root / workspace, ignore_errors=True)


def mixture(names: list[str], count: int, kinds: list[str], draw: random.Random) -> dict[str, str]:
    """``count`` bad scenes; every kind about as often."""
    picked = draw.sample(names, count)
    order = draw.sample(kinds, len(kinds))
    return {name: order[i % len(order)] for i, name in enumerate(sorted(picked))}


@check(
    "isolation",
    area="Isolation",
    promise="Of several scans, one that crashes, hangs, diverges, runs out of memory or cannot be "
    "read costs no other scan anything.",
    goal="20 scans, 1 to 20 of them bad in every way: the others byte-identical, each bad one in "
    "its row, at most 2 retries",
)
def isolation(trial: Trial) -> Outcome:
    outcome, tally = Outcome(), Tally()
    world = World(trial.folder, trial.size(20, 5))
    outcome.require(world.code == 0 and all(world.clean.values()), f"clean run: {world.err}")
    draw = trial.draw("isolation")
    # First: would this notice a scene that comes out differently, and nothing else?
    first, second, third, odd, *_ = world.names
    bad, wrong = {first: "segfault", second: "cut photo", third: "nan depth"}, Outcome()
    examine(world, bad, 0, wrong, tally, {odd: "drifts"})
    noticed = [line for line in wrong.broken if f"{odd} differs from the clean run" in line]
    outcome.require(len(noticed) == 1, f"{odd} was spoilt in secret and it was not noticed")
    outcome.broken += [line for line in wrong.broken if line not in noticed]
    tally.good -= 1
    if trial.whole:
        for kind in KINDS:
            examine(world, {draw.choice(world.names): kind}, 1, outcome, tally)
        for count, retries in ((5, 2), (10, 1), (19, 0), (20, 0)):
            bad = mixture(world.names, count, list(KINDS), draw)
            examine(world, bad, retries, outcome, tally)
    outcome.cases = tally.failed + tally.good
    outcome.figure = (
        f"{tally.runs} runs of {len(world.names)} scans, {tally.failed} bad in "
        f"{len(KINDS) if trial.whole else 3} ways: {tally.good} good ones "
        f"{'not all ' if outcome.broken else ''}identical, at most {tally.tried} attempts, longest "
        f"run {tally.longest:.0f} s"
    )
    return outcome
