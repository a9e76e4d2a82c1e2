"""One process for a very long time: nothing is left open, running, lying about or in memory."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fit3d_cli.allocator import give_back
from tests.reliability._measuring import measuring, resident
from tests.reliability._views import many_views, small_room, write_backbone
from tests.reliability.base import Outcome, Trial, check

KIB = 1 << 10
SLOPE = 1 * KIB  # bytes per scene
NOISE = 512 * KIB  # of the allocators over a whole run
STEP = 8 << 20  # by which tables that double may grow in a whole run
WINDOWS = 10
DESCRIPTORS = 128  # an eighth of what systems allow a process

_LIFT = {
    "isolate": "never",
    "memory": 0,  # every scene has its temporary files
    "heldout": 0.25,
    "geometry": {"width": 24, "iterations": 1, "init_gaussians": 60, "densify": False},
    "features": {"dim": 2, "validation": 0, "cg_iterations": 1},
}


class Watch:
    """What a process holds, noted after each round of the same work.

    Args:
        rounds: How many there will be.
        folders: Where nothing temporary may stay.
    """

    def __init__(self, rounds: int, folders: list[str]) -> None:
        self._from = max(1, rounds // 4)  # what comes before only warms up
        self._folders = [Path(folder) for folder in folders]
        self._done = 0
        self._first: dict[str, int] = {}
        self._memory: list[int] = []
        gc.collect()
        gc.freeze()  # so that to collect what comes is cheap

    def note(self) -> None:
        """One more round is done."""
        self._done += 1
        if self._done == self._from:
            self._first = self._now()
        if self._done >= self._from:
            # Garbage, and what the allocator keeps of it, is no leak; it hides one.
            gc.collect()
            give_back()
            self._memory.append(resident("RssAnon"))

    def _now(self) -> dict[str, int]:
        gc.collect()
        own = str(os.getpid())
        return {
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
            "shared memory files": sum(own in path.name for path in Path("/dev/shm").iterdir()),
            "temporary files": sum(1 for _ in Path(tempfile.gettempdir()).iterdir())
            + sum(1 for folder in self._folders for _ in folder.rglob(".*.f3dtmp*")),
        }

    def found(self) -> dict[str, Any]:
        """How much more there is of everything; slope of the memory in bytes a round; its rise."""
        last = self._now()
        count = len(self._memory)
        size = min(count, max(20, count // WINDOWS))
        windows = [self._memory[i : i + size] for i in range(0, count - size + 1, size)]
        return {
            "rounds": count - 1,
            "more": {what: last[what] - self._first[what] for what in last},
            # A leak is in every stretch; a table that doubled once is in one of them.
            "slope": statistics.median(map(slope, windows)),
            "rise": self._memory[-1] - self._memory[0],
        }


def slope(values: Sequence[int]) -> float:
    """Of the line that is nearest to them, per value."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((i - middle) ** 2 for i in range(len(values)))
    return sum((i - middle) * (v - mean) for i, v in enumerate(values)) / max(spread, 1)


def _few_descriptors(temporary: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    Path(temporary).mkdir(exist_ok=True)
    tempfile.tempdir = temporary


def lifts(captures: str, model: str, workspace: str, temporary: str) -> dict[str, Any]:
    """Every capture of a folder, in this process.

    One call of ``fit3d lift`` does the same and keeps a row of its table per scene, some 3 KiB.
    """
    from fit3d_cli.capture.sources.find import find_scans
    from fit3d_cli.lifting.lifter import Lifter
    from fit3d_cli.lifting.results import Failed
    from fit3d_cli.progress import ignore
    from fit3d_cli.settings import LiftSettings
    from fit3d_cli.workspace import Workspace

    _few_descriptors(temporary)
    settings = LiftSettings.model_validate(
        {**_LIFT, "backbone": {"name": model, "width": 24}, "reader": "rgbd"}
    )
    scans = find_scans(Path(captures), settings.reader)
    lifter = Lifter(settings, Workspace(Path(workspace)), "cpu", 0)
    watch, failed = Watch(len(scans), [workspace]), []
    for scan in scans:
        outcome = lifter.lift(scan, ignore)
        if isinstance(outcome, Failed):
            failed.append(f"{scan.name}: {outcome.error}")
        watch.note()
    return watch.found() | {"failed": failed}


def _again(rounds: int, workspace: str, temporary: str, work: Callable[[int], object]) -> Any:
    _few_descriptors(temporary)
    watch = Watch(rounds, [workspace])
    for number in range(rounds):
        work(number)
        watch.note()
    return watch.found() | {"failed": []}


def reads(archive: str, rounds: int, workspace: str, temporary: str) -> Any:
    """The same archive again and again."""
    from fit3d_cli.archive import describe, read_archive, verify_archive

    def work(_: int) -> None:
        path = Path(archive)
        read_archive(path)
        describe(path)
        verify_archive(path)

    return _again(rounds, workspace, temporary, work)


def renders(archive: str, rounds: int, workspace: str, temporary: str) -> Any:
    """One view of a scene after the other."""
    from fit3d_cli.archive import read_archive
    from fit3d_cli.rendering import render_maps

    scene = read_archive(Path(archive))
    cameras = scene.cameras

    def work(number: int) -> None:
        render_maps(scene, cameras[number % len(cameras)], features=True)

    return _again(rounds, workspace, temporary, work)


def tunes(archive: str, rounds: int, workspace: str, temporary: str) -> Any:
    """Tiny trainings of the same scene, each from its start."""
    from fit3d_cli.finetuning.finetune import finetune
    from fit3d_cli.progress import ignore
    from fit3d_cli.settings import FinetuneSettings

    def work(number: int) -> None:
        settings = FinetuneSettings.model_validate(
            {"name": "again", "max_steps": 1, "heldout_points": 0, "objectives": {"smooth_ap": 1}}
        )
        finetune(
            [Path(archive)], settings, workspace=Path(workspace), device="cpu", seed=number,
            captures=[], on_event=ignore,
        )  # fmt: skip

    return _again(rounds, workspace, temporary, work)


def judged(outcome: Outcome, what: str, found: dict[str, Any]) -> None:
    """Nothing more of anything, and hardly more memory."""
    assert not found["error"], found["error"]
    value = found["value"]
    rounds, each, rise = value["rounds"], value["slope"], value["rise"]
    outcome.cases += rounds
    outcome.require(not value["failed"], f"{what}: {value['failed'][:3]}")
    for kind, more in value["more"].items():
        outcome.require(more <= 0, f"{what}: {more} {kind} more after {rounds} rounds")
    allowed = SLOPE + NOISE / max(rounds, 1)
    outcome.require(
        each <= allowed, f"{what}: {each / KIB:.2f} KiB a round, {allowed / KIB:.2f} allowed"
    )
    most = SLOPE * rounds + NOISE + STEP
    outcome.require(rise <= most, f"{what}: {rise >> 20} MiB more, {most >> 20} allowed")
    held = "nothing left" if max(value["more"].values()) <= 0 else str(value["more"])
    outcome.figure = "; ".join(
        filter(None, [outcome.figure, f"{rounds} {what}: {held}, {each / KIB:.2f} KiB each"])
    )


def dozens(trial: Trial, room: Path) -> Path:
    """A folder of captures with the same few views; only their names differ."""
    folder = trial.folder / "captures"
    folder.mkdir()
    for number in range(trial.size(2000, 30)):
        many_views(room, folder / f"hall{number:04d}", 4)
    return folder


@check(
    "soak",
    area="Resources",
    promise="A process that lifts, reads, renders and tunes for days leaks nothing",
    goal="2,000 scenes: descriptors, threads, temporary files +0, at most 1 KiB of memory a scene",
)
def soak(trial: Trial) -> Outcome:
    outcome = Outcome()
    model = write_backbone(trial.folder / "midget", 0)
    room = small_room(trial.folder / "room", 24, 24, views=4)
    captures, place = dozens(trial, room), trial.folder / "out"
    temporary = str(trial.folder / "temporary")
    with measuring() as process:
        judged(outcome, "lifts", process.call(
            "tests.reliability.soak:lifts", captures=str(captures), model=str(model),
            workspace=str(place), temporary=temporary,
        ))  # fmt: skip
        archive = next((place / "scenes").glob("*.f3d"))
        work = {"reads": trial.size(1000, 40), "renders": trial.size(1000, 40)}
        if trial.whole:  # a few trainings only warm up
            work["tunes"] = 200
        for what, rounds in work.items():
            judged(outcome, what, process.call(
                f"tests.reliability.soak:{what}", archive=str(archive), rounds=rounds,
                workspace=str(place), temporary=temporary,
            ))  # fmt: skip
    return outcome
