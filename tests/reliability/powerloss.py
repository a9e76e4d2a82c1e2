"""The disk after a loss of power at any moment of a save, rebuilt from what the save did."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fit3d_cli import storage
from fit3d_cli.archive import verify_archive
from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile import read_sealed
from tests.reliability._disk import Content, Disk, replay, states
from tests.reliability._saving import NEW, OLD, contents
from tests.reliability._traced import Ended, Saver, require_strace, saver
from tests.reliability.base import Outcome, Trial, check

CALLS = (
    "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,unlink,"
    "unlinkat,ftruncate,fallocate,mkdir,mkdirat,rmdir,close,dup,dup2,dup3,fcntl"
)
SAVES = ("archive", "checkpoint", "json", "memory", "folder", "sibling")
ASIDE = "folder put aside"
# A defect and what shows it: new names of bytes that are not on the disk, saves that are undone.

PLANTED = {"fsync of files": "archive", "fsync of folders": "json"}


@dataclass
class Replayed:
    """What the states of a save were."""

    states: int = 0
    distinct: int = 0
    broken: list[str] = field(default_factory=list)


def replay_save(
    name: str, folder: Path, saves: Saver, every: int = 1, without: tuple[str, ...] = ()
) -> Replayed:
    """Rebuild and read every state of a save."""
    before = folder / "disk"
    before.mkdir(parents=True)
    kind = "folder" if name == ASIDE else name
    assert saves.save(kind, before, OLD).code == 0
    old, disk = contents(before), Disk.of(before)
    ended: Ended = saves.traced(
        kind, before, NEW, "-e", f"trace={CALLS}", "-xx", "-s", "9999999", without=without
    )
    assert ended.code == 0, ended.log[-2000:]
    new = contents(before)
    found, seen = Replayed(), set[tuple[tuple[str, bytes], ...]]()
    for number, done in enumerate(itertools.chain(["the start"], replay(disk, ended.log))):
        if number % every and every > 1:
            continue
        for what, state in states(disk):
            found.states += 1
            key = tuple(sorted(state.items()))
            if key in seen:
                continue
            seen.add(key)
            if wrong := unreadable(kind, folder / "rebuilt", state, old, new):
                found.broken.append(f"{name}: after {done}, {what}: {wrong}")
    told: Content = {}
    for what, told in states(disk):  # the save has returned; the last has all names
        if wrong := unreadable(kind, folder / "rebuilt", told, old, new, done=True):
            found.broken.append(f"{name}: after all was done, {what}: {wrong}")
    if without not in [(defect,) for defect in PLANTED]:
        assert {n: d for n, d in told.items() if n in new} == new, "the trace lacks something"
    found.distinct = len(seen)
    return found


def unreadable(
    kind: str, place: Path, state: Content, old: Content, new: Content, *, done: bool = False
) -> str:
    """What is wrong with the disk after the next start, or an empty string."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in sorted(state.items()):
        if name.endswith("/"):
            (place / name).mkdir(parents=True, exist_ok=True)
        else:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
        storage.sweep(folder, ours=True)
    now = contents(place)
    for name, data in now.items():
        if name not in (*old, *new):
            return f"{name} is neither of the old nor of the new"
        if data not in (old.get(name), new.get(name)):
            return f"{name} is neither the old nor the new"
    if kind == "checkpoint":
        if len(now) < 2:
            return f"only {len(now)} checkpoints"
        if done and max(now) != max(new):
            return "the newest checkpoint is gone"
    elif now != new and (done or now != old):
        if now == old:
            return "what was saved is undone"
        return "it is gone" if len(now) < len(old) else "old and new are mixed"
    try:
        for name in now:
            if name.endswith(".f3d"):
                verify_archive(place / name)
            elif name.endswith(".safetensors"):
                read_sealed(place / name)
    except ArchiveError as error:
        return str(error)
    return ""


@check(
    "powerloss",
    area="Kills and faults",
    promise="After a loss of power at any moment of a save, every file that has its final name is "
    "whole, the old or the new one; what was saved stays saved.",
    goal="every step of 7 kinds of saves x unsynced bytes lost, zeroed, halved x names in any "
    "order: 0 unreadable states",
)
def lose_power(trial: Trial) -> Outcome:
    require_strace()
    outcome, saves, per = Outcome(), saver(), Counter[str]()
    distinct = 0
    for name in (*SAVES, ASIDE) if trial.whole else ("archive", "json"):
        without = ("exchange",) if name == ASIDE else ()
        found = replay_save(name, trial.folder / name, saves, trial.size(1, 3), without)
        per[name] += found.states
        distinct += found.distinct
        outcome.broken += found.broken
    for number, (defect, name) in enumerate(PLANTED.items()):
        planted = replay_save(name, trial.folder / str(number), saves, 1, (defect,))
        outcome.require(bool(planted.broken), f"not found: a save without {defect}")
    outcome.cases = sum(per.values())
    parts = ", ".join(f"{name} {count}" for name, count in per.items())
    outcome.figure = (
        f"{outcome.cases} states, {distinct} of them different ({parts}): "
        f"{len(outcome.broken)} unreadable; saves without fsync of files, and of folders, are found"
    )
    return outcome
