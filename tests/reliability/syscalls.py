"""A kill and an error at every system call of a save."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli import storage
from tests.reliability._saving import NEW, OLD, REFUSED, contents, hash_of, litter
from tests.reliability._traced import CALLS, Ended, Saver, require_strace, saver
from tests.reliability.base import Outcome, Trial, check

# ENOSYS and the like are answers of another filesystem, not faults.
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "EINTR")
PAGE = 4096
State = dict[str, bytes]


@dataclass
class Save:
    """One kind of save, what was there before it, and what is there after it.

    Attributes:
        name: Of the save.
        folder: Where trials take place.
        before: A folder with the old content.
        old: The old content.
        new: The new content.
        between: What may be there between: a checkpoint is saved, the oldest not yet removed.
        calls: How often it makes every system call.
    """

    name: str
    folder: Path
    before: Path
    old: State
    new: State
    between: State
    calls: dict[str, int]

    @classmethod
    def of(cls, name: str, folder: Path, saves: Saver, *, strace: bool = True) -> Save:
        before, after = folder / f"{name}-old", folder / f"{name}-new"
        before.mkdir(parents=True)
        assert saves.save(name, before, OLD).code == 0
        shutil.copytree(before, after)
        calls = {}
        if strace:
            ended = saves.traced(name, after, NEW, "-e", f"trace={','.join(CALLS)}")
            assert ended.code == 0, ended.log
            calls = {call: ended.count(call) for call in CALLS if ended.count(call)}
        else:
            assert saves.save(name, after, NEW).code == 0
        old, new = contents(before), contents(after)
        assert old != new
        between = {**old, **new} if name == "checkpoint" else new
        return cls(name, folder / "trial", before, old, new, between, calls)

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder)

    def whole(self) -> bool:
        return contents(self.folder) in (self.old, self.between, self.new)

    def works_again(self, saves: Saver) -> str:
        """What is wrong after the next start and another save, or an empty string."""
        for base, _, _ in os.walk(self.folder):
            storage.sweep(Path(base), ours=True)
        if left := litter(self.folder):
            return f"{left[0].name} is left after the next start"
        if not self.whole():
            return "the next start broke it"
        if saves.save(self.name, self.folder, NEW).code or contents(self.folder) != self.new:
            return "it cannot be saved again"
        return f"{litter(self.folder)[0].name} is left" if litter(self.folder) else ""


def points(save: Save, every: int) -> Iterator[tuple[str, int]]:
    """Every call of a save, and one more of each kind, which never comes."""
    number = 0
    for call, count in save.calls.items():
        for n in range(1, count + 2):
            number += 1
            if number % every == 0 or (every == 1):
                yield call, n


def kinds(trial: Trial) -> tuple[str, ...]:
    return ("archive", "checkpoint", "folder", "memory", "sibling") if trial.whole else ("archive",)


@check(
    "syscalls-kill",
    area="Kills and faults",
    promise="A process killed at any system call of a save leaves the old file or the new one, "
    "and the next start removes what else it left.",
    goal="every call of an archive, a checkpoint and a folder; at most 1 temporary file, then 0",
)
def kill_everywhere(trial: Trial) -> Outcome:
    require_strace()
    outcome, saves = Outcome(), saver()
    most, seen = 0, Counter[str]()
    for name in kinds(trial):
        save = Save.of(name, trial.folder / name, saves)
        for call, n in points(save, trial.size(1, 3)):
            save.reset()
            ended = saves.traced(
                name, save.folder, NEW, "-e", f"trace={call}",
                "-e", f"inject={call}:signal=SIGKILL:when={n}",
            )  # fmt: skip
            place = f"{name} killed at {call} {n}"
            outcome.cases += 1
            killed = n <= save.calls[call]
            outcome.require(ended.code == (-9 if killed else 0), f"{place}: ended {ended.code}")
            seen[name] += killed
            left = sum(not path.name.endswith(".lock") for path in litter(save.folder))
            most = max(most, left)
            outcome.require(left <= (1 if killed else 0), f"{place}: {left} temporary files")
            outcome.require(save.whole(), f"{place}: neither the old nor the new")
            wrong = save.works_again(saves)
            outcome.require(not wrong, f"{place}: {wrong}")
        if name == "archive":
            ended = planted(save, saves, "temporary names", "write:signal=SIGKILL:when=1")
            found = ended.code == -9 and not save.whole()
            outcome.require(found, "not found: a save in place")
    outcome.figure = (
        f"{sum(seen.values())} kills ({told(seen)}): 0 files lost or mixed, at most {most} "
        "temporary file or folder each, 0 and no lock after the next start; "
        "a save in place is found"
    )
    return outcome


def planted(save: Save, saves: Saver, defect: str, fault: str) -> Ended:
    """A save with a defect, to see that its effect is found."""
    save.reset()
    options = ("-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}")
    return saves.traced(save.name, save.folder, NEW, *options, without=(defect,))


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


@check(
    "syscalls-errors",
    area="Kills and faults",
    promise="An error of the disk at any system call of a save is one typed error; the old file "
    "stays, nothing is left over, and the same save succeeds once the disk is well.",
    goal="ENOSPC, EIO, EDQUOT, EFBIG, EINTR at every call; short writes and full disks at every "
    "4 KiB; no fsync is tried twice",
)
def errors_everywhere(trial: Trial) -> Outcome:
    require_strace()
    outcome, saves = Outcome(), saver()
    refused, survived, cases = Counter[str](), 0, Counter[str]()
    for name in kinds(trial):
        save = Save.of(name, trial.folder / name, saves)
        for place, ended, failed_sync in _injected(trial, save, saves):
            survived += ended.code == 0
            refused[name] += ended.code == REFUSED
            cases["errors"] += 1
            if failed_sync:
                outcome.require(ended.count("fsync") == failed_sync, f"{place}: fsync tried again")
            _judge(outcome, save, ended, place, saves)
        if name == "archive":
            ended = planted(save, saves, "clearing up", "fsync:error=EIO:when=1")
            found = ended.code == REFUSED and len(litter(save.folder)) == 1
            outcome.require(found, "not found: a temporary file that stays")
        if name in ("archive", "checkpoint"):
            for place, ended in _limited(trial, save, saves):
                cases["size limits and short writes"] += 1
                _judge(outcome, save, ended, place, saves)
            small = _small_disks(trial, save, saves, outcome)
            cases["small disks"] += small
    outcome.cases = sum(cases.values())
    outcome.figure = (
        f"{told(cases)}: {sum(refused.values())} injected errors refused with exit code 3, "
        f"{survived} survived, 0 old files changed, 0 files left over, 0 fsyncs repeated; "
        "a save that leaves its temporary file is found"
    )
    if not cases["small disks"]:
        outcome.figure += "; small disks not tried: no user namespaces here"
    return outcome


def _injected(trial: Trial, save: Save, saves: Saver) -> Iterator[tuple[str, Ended, int]]:
    for number, (call, n) in enumerate(points(save, trial.size(1, 3))):
        if n > save.calls[call]:
            continue
        for error in ERRORS if trial.whole else (ERRORS[number % len(ERRORS)],):
            save.reset()
            ended = saves.traced(
                save.name, save.folder, NEW, "-e", f"trace={call}",
                "-e", f"inject={call}:error={error}:when={n}",
            )  # fmt: skip
            place = f"{save.name} with {error} at {call} {n}"
            # A call that was interrupted by a signal has not failed: it is made again.
            yield place, ended, n if call == "fsync" and error != "EINTR" else 0


def _limited(trial: Trial, save: Save, saves: Saver) -> Iterator[tuple[str, Ended]]:
    """Files may grow to every 4 KiB only; the writes before that are of random sizes."""
    largest = max(map(len, save.new.values()))
    steps = range(0, largest + 2 * PAGE, PAGE)
    for number, limit in enumerate(steps):
        for without in ((), ("fallocate",)):
            if not trial.whole and number % 5:
                continue
            save.reset()
            short = trial.draw("short", limit).randrange(1 << 30) if without else None
            ended = saves.save(
                save.name, save.folder, NEW, limit=limit, without=without, short=short
            )
            place = f"{save.name} at most {limit} bytes" + (" in parts" if without else "")
            expected = 0 if limit >= largest else REFUSED
            yield place, ended if ended.code == expected else Ended(97)


def _judge(outcome: Outcome, save: Save, ended: Ended, place: str, saves: Saver) -> None:
    outcome.require(ended.code in (0, REFUSED), f"{place}: ended {ended.code}")
    now = contents(save.folder)
    if ended.code == 0:
        outcome.require(now in (save.new, save.between), f"{place}: said it was saved")
    outcome.require(save.whole(), f"{place}: neither the old nor the new")
    # A lock that could not be taken or removed is void, and goes at the next start.
    left = [path.name for path in litter(save.folder) if path.suffix != ".lock"]
    outcome.require(not left, f"{place}: {left[:1]} is left over")
    wrong = save.works_again(saves)
    outcome.require(not wrong, f"{place}: {wrong}")


def _small_disks(trial: Trial, save: Save, saves: Saver, outcome: Outcome) -> int:
    """How many sizes were tried: from what the old content takes to what both take."""
    mount, told = trial.folder / f"{save.name}-disk", trial.folder / f"{save.name}.json"
    mount.mkdir()
    pages = [-(-len(data) // PAGE) for data in save.old.values()]
    both = sum(pages) + sum(-(-len(data) // PAGE) for data in save.new.values())
    sizes = list(range(1, both + 8))[:: trial.size(1, 6)]
    job = {"do": "disks", "save": save.name, "folder": str(mount), "told": str(told)}
    pid = saves.start(**job, pages=sizes)
    if saves.wait(pid) or not told.exists():
        return 0
    old, between, new = (
        {name: hash_of(data) for name, data in state.items()}
        for state in (save.old, save.between, save.new)
    )
    codes = Counter[int]()
    for size, code, after, left, again, whole in json.loads(told.read_text()):
        place = f"{save.name} on a disk of {size * PAGE} bytes"
        codes[code] += 1
        if code == -1:  # not even room for the old content
            continue
        outcome.require(code in (0, REFUSED), f"{place}: ended {code}")
        outcome.require(after in ((new, between) if code == 0 else (old,)), f"{place}: was changed")
        outcome.require(left == 0, f"{place}: {left} files are left over")
        outcome.require((again, whole) == (0, new), f"{place}: cannot be saved with more room")
    outcome.require(codes[REFUSED] > 0 and codes[0] > 0, f"{save.name}: no disk was too small")
    return len(sizes)
