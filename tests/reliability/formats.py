"""Hostile files of Gaussians: ``.ply``, ``.spz`` and ``.splat`` of other programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats import describe_gaussians, read_gaussians
from tests.reliability._gaussian_files import GaussianFiles, bombs, put, usable
from tests.reliability._hunt import Prey, alone, hunt, memory
from tests.reliability.archives import AREA, cores, printed, told
from tests.reliability.base import Outcome, Trial, check

_ROOM = 32 << 20

READERS: tuple[Callable[[Path], Any], ...] = (
    read_gaussians,
    lambda path: read_gaussians(path, drop_invalid=True),
    describe_gaussians,
)


def formats_prey(trial: Trial) -> Prey:
    """Mutated files of Gaussians."""
    mutate = GaussianFiles(trial.folder)

    def read(case: int, path: Path) -> Any:
        return READERS[case % len(READERS)](path)

    def judge(case: int, content: bytes, value: Any) -> str:
        if isinstance(value, dict):
            printed(value)
            return "" if value["invalid"] <= value["gaussians"] else "more invalid ones than all"
        return usable(value)

    return Prey(
        trial.folder, lambda case: mutate(trial.draw("formats", case)), read, judge, ArchiveError,
        ("a.ply", "a.spz", "a.splat", "a"), room=_ROOM,
    )  # fmt: skip


@check(
    "formats-mutations",
    area=AREA,
    promise="A damaged or hostile `.ply`, `.spz` or `.splat` is refused with one line, or read as "
    "Gaussians that can be rendered.",
    goal="10^5 mutations of 13 files: typed errors only, each <= 100 ms, memory <= 32 MiB",
)
def formats_mutations(trial: Trial) -> Outcome:
    bag = hunt(formats_prey(trial), range(trial.size(100_000, 1500)), workers=cores(trial))
    return told(Outcome(), bag)


@check(
    "formats-bombs",
    area=AREA,
    promise="A file of Gaussians that unpacks to more than it announces, or announces more than it "
    "could hold, is refused early.",
    goal="every hand-made bomb refused in <= 100 ms with <= 32 MiB",
)
def formats_bombs(trial: Trial) -> Outcome:
    made = bombs()
    outcome = Outcome(len(made))
    good = Path(__file__).parents[1] / "formats" / "golden"
    slowest, largest = (0.0, ""), (0, "")

    def light(path: Path) -> dict[str, Any]:
        for name in ("tool-v3.spz", "tool-v4.spz", "tool.compressed.ply", "ours.splat.decoded.ply"):
            read_gaussians(good / name)  # code and buffers that every reading needs
        base, spent, line = memory(reset=True), [], ""
        for _ in range(3):
            began = time.process_time()
            try:
                describe_gaussians(path)
            except ArchiveError as error:
                line = str(error).replace(str(path), "")
            spent.append(time.process_time() - began)
        return {"line": line, "spent": min(spent), "grown": memory() - base}

    for what, (name, content, size) in made.items():
        path = trial.folder / name
        put(path, content, size)
        try:
            seen = alone(lambda path=path: light(path))
        except RuntimeError as error:
            outcome.broken.append(f"{what}: {error}")
            continue
        outcome.require(bool(seen["line"]), f"{what}: read")
        outcome.require(len(seen["line"]) <= 240, f"{what}: a message of {len(seen['line'])}")
        outcome.require(seen["spent"] <= 0.1, f"{what}: {seen['spent'] * 1e3:.0f} ms")
        outcome.require(seen["grown"] <= _ROOM, f"{what}: {seen['grown'] / 2**20:.1f} MiB")
        slowest = max(slowest, (seen["spent"], what))
        largest = max(largest, (seen["grown"], what))
    outcome.figure = (
        f"{len(made)} bombs refused; slowest {slowest[0] * 1e3:.0f} ms ({slowest[1]}), "
        f"most memory {largest[0] / 2**20:.1f} MiB ({largest[1]})"
    )
    return outcome
