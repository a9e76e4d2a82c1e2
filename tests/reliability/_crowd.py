"""Processes that all lift the same scenes of one workspace; runs in a child of ``_saving``.

Reading photos and making a scene are replaced by something quick. Everything that decides who
writes is the product's own: finding what is finished, waiting for the lock, writing, remembering.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SCENES = 2  # of every round
KILLED_EVERY = 10  # scenes: the first to get the lock dies with it
SLOW_EVERY = 10  # scenes: the others are told for whom they wait
TOGETHER = 0.1  # seconds for which a process waits for the others at the start of a round
KEYS = 10  # that every process keeps in the memory of captures, again and again


@dataclass(frozen=True)
class Job:
    """Stands in for ``lifting.making.Job``."""

    name: str

    def plan(self) -> str:
        return f"plan of {self.name}"


def name_of(round_: int, scene: int) -> str:
    return f"room-{round_ * SCENES + scene}"


def dies(name: str) -> bool:
    return int(name.split("-")[1]) % KILLED_EVERY == 3


def slow(name: str) -> bool:
    return int(name.split("-")[1]) % SLOW_EVERY == 7


def note(path: Path, line: str) -> None:
    """Append a line; at this length it is one write, and appending ones do not mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


class Worker:
    """One of the processes."""

    def __init__(self, job: dict[str, Any], number: int, rounds: memoryview) -> None:
        from fit3d_cli.lifting import lifter
        from fit3d_cli.settings import LiftSettings
        from fit3d_cli.workspace import Workspace

        self.root, self.number, self.rounds = Path(job["folder"]), number, rounds
        self.place = Workspace(self.root / "ws")
        self.draw = random.Random(f"{job['seed']} {number}")
        self.count: Counter[str] = Counter()
        lifter.read_capture = lambda root, reader, name: SimpleNamespace(
            root=root, name=name, notes=(), dropped={}
        )
        lifter.spread = lambda capture, most: capture
        lifter.check_storable = lifter.check_shapes = lambda capture: None
        lifter.capture_digest = lambda capture: capture.name
        lifter.Job = lambda capture, *_: Job(capture.name)
        lifter.prepare = lambda job: None
        lifter.make_scene = self.make
        self.write, lifter.write_archive = lifter.write_archive, self.written
        if job["plant"]:
            lifter.storage = SimpleNamespace(locked=nobody_waits)
        self.lifter = lifter.Lifter.__new__(lifter.Lifter)
        vars(self.lifter).update(
            _settings=LiftSettings(), _place=self.place, _device="cpu", _splats="cpu", _seed=0,
            _backbone=SimpleNamespace(weights_sha256="0" * 64), _check_needs=lambda capture: None,
        )  # fmt: skip

    def make(self, job: Job, fit: None) -> Any:
        from tests.reliability._saving import _scene

        number = int(job.name.split("-")[1])
        time.sleep(0.25 if slow(job.name) else 0.01)
        if dies(job.name):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.root / f"killed-{job.name}", os.O_CREAT | os.O_EXCL))
                self.die_after(self.draw.randrange(12))
        scene = _scene(40, number)
        return SimpleNamespace(
            **{**vars(scene), "name": job.name, "provenance": {"plan": job.plan()}}
        )

    def die_after(self, calls: int) -> None:
        """Be killed at one of the next writes, or while the scene is made."""
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        write, left = os.write, [calls]

        def counting(fd: int, data: Any) -> int:
            left[0] -= 1
            if not left[0]:
                write(fd, memoryview(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(fd, data)

        os.write = counting

    def written(self, path: Path, scene: Any) -> None:
        self.write(path, scene)
        note(self.root / "made", scene.name)

    def run(self, first: int, rounds: int) -> None:
        from fit3d_cli.capture.sources.find import Scan

        for round_ in range(first, rounds):
            self.rounds[self.number] = round_
            end = time.monotonic() + TOGETHER
            while min(self.rounds) < round_ and time.monotonic() < end:
                time.sleep(0.001)
            for name in (name_of(round_, scene) for scene in range(SCENES)):
                result = self.lifter.lift(
                    Scan(path=self.root / "rooms" / name, name=name), self.hear
                )
                if not hasattr(result, "skipped"):
                    raise result.error
                self.count["skipped" if result.skipped else "made"] += 1
            key = f"mine-{self.number}-{round_ % KEYS}"
            self.place.remember_capture(key, Path(f"/rooms/{round_}"))
            if self.draw.random() < 0.1:
                self.place.sweep()
        note(self.root / "counts", json.dumps(self.count))

    def hear(self, event: Any) -> None:
        self.count["told to wait"] += "being written by pid" in event.note


def nobody_waits(path: Path, **_: Any) -> Any:
    """The planted defect: a lock that locks nothing."""
    return contextlib.nullcontext()


def watch(job: dict[str, Any]) -> None:
    """Reads and sweeps all the time, until it is killed; notes what it could not read."""
    from fit3d_cli.archive import verify_archive
    from fit3d_cli.workspace import Workspace

    root, count = Path(job["folder"]), 0
    place, draw = Workspace(root / "ws"), random.Random(job["seed"])
    while True:
        try:
            place.captures()
            found = place.scene_paths()
            for path in draw.sample(found, min(3, len(found))):
                verify_archive(path)
                count += 1
        except Exception as error:
            note(root / "torn", str(error))
        place.sweep()
        (root / "reads.new").write_text(str(count))
        (root / "reads.new").replace(root / "reads")  # it may be stopped at any moment
        time.sleep(0.02)


def start(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        code = 99
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def run(job: dict[str, Any]) -> int:
    """All processes; replaces those that are killed, and ends when all rounds are done."""
    root, rounds = Path(job["folder"]), int(job["rounds"])
    (root / "ws" / "scenes").mkdir(parents=True)
    (root / "rooms").mkdir()
    from tests.reliability._saving import save_archive

    for number in range(0, rounds * SCENES, 3):  # some are there already, of another plan
        save_archive(root / "old", 1)
        (root / "old/room.f3d").rename(root / f"ws/scenes/room-{number}.f3d")

    importlib.import_module("fit3d_cli.lifting.lifter")  # once for all
    reached = memoryview(mmap.mmap(-1, 4 * job["processes"])).cast("i")  # shared with them

    def worker(number: int, first: int, life: int) -> int:
        born = {**job, "seed": (job["seed"], life)}
        return start(lambda: Worker(born, number, reached).run(first, rounds))

    working = {worker(number, 0, 0): number for number in range(job["processes"])}
    watching = start(lambda: watch(job))
    end, told = time.monotonic() + job["patience"], Counter[str]()
    while working and time.monotonic() < end:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.01)
            continue
        number, code = working.pop(pid), os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            told["killed"] += 1
            working[worker(number, reached[number], told["killed"])] = number
        elif code:
            told["failed"] += 1
    told["hung"] = len(working)
    for pid in (*working, watching):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    Path(job["told"]).write_text(json.dumps(told))
    return 0
