"""Where wrong command lines are tried: they must be refused, and leave everything as it was."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli import app
from tests.faults.case import Case

LONGEST = 240  # characters of a line, paths as seen from the working directory
Stamp = tuple[int, ...]


@dataclass
class Refusal:
    """What came of a wrong command line.

    Attributes:
        broken: What the contract of a failure forbids, one line each.
        seconds: Processor time of the command.
        length: Characters of its message.
    """

    broken: list[str]
    seconds: float
    length: int


class Ground:
    """A world that is damaged and mended again: copying it for every case would take longer.

    Args:
        root: The world; becomes the working directory while a case is tried.
        spare: Where its copy is kept.
    """

    def __init__(self, root: Path, spare: Path) -> None:
        self.root, self.spare = root, spare
        shutil.copytree(root, spare, symlinks=True)
        self.whole = snapshot(root)

    def mend(self) -> None:
        """Undo whatever was done to the world."""
        now = snapshot(self.root)
        for path in sorted(now.keys() - self.whole.keys(), reverse=True):
            place = self.root / path
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
        for path in sorted(p for p, stamp in self.whole.items() if now.get(p) != stamp):
            place, spare = self.root / path, self.spare / path
            if place.is_dir() and not place.is_symlink():
                if not spare.is_dir():
                    place.rmdir()
            else:
                place.unlink(missing_ok=True)
            if spare.is_dir():
                place.mkdir(exist_ok=True)
            else:
                shutil.copy2(spare, place)
            self.whole[path] = stamp_of(place)

    def same(self, path: str) -> bool:
        """Whether a file has the bytes that it had at first."""
        place, spare = self.root / path, self.spare / path
        return place.is_file() and spare.is_file() and place.read_bytes() == spare.read_bytes()

    @contextlib.contextmanager
    def entered(self) -> Iterator[Path]:
        """The world as the working directory, mended afterwards."""
        before = Path.cwd()
        os.chdir(self.root)
        try:
            yield self.root
        finally:
            os.chdir(before)
            self.mend()

    def refusal(self, case: Case) -> Refusal:
        """Try a case: the contract of every failure."""
        with self.entered() as root:
            told = case.damage(root)
            return self.refused(
                case.line.split(), case.code, str(told) if case.names == "*" else case.names,
                case.says, case.kept,
            )  # fmt: skip

    def refused(
        self, words: list[str], code: int, culprit: str, says: str = "", kept: str = ""
    ) -> Refusal:
        """Run a command line in the damaged world; the first word is the verb."""
        root = self.root
        common = ["--profile", "small.toml", "--workspace", "new" if words[0] == "lift" else "out"]
        before = snapshot(root)
        out, err = io.StringIO(), io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            warnings.simplefilter("error")
            began = time.process_time()
            given = app.run([words[0], *common, "-q", *words[1:]])
            seconds = time.process_time() - began
        after = snapshot(root)
        line = err.getvalue().replace(f"{root}/", "")
        touched = {path for path, _ in set(before.items()) ^ set(after.items())}
        written = sorted(
            p for p in touched if not (kept and p.startswith(kept)) and not self.same(p)
        )
        _, dash, remedy = line.partition(" - ")
        rules = {
            f"exit code {given}": given == code,
            "stdout": not out.getvalue(),
            "no error": line.startswith("fit3d: error: "),
            "not one line": line.count("\n") == 1 and line.endswith("\n"),
            "a traceback": "Traceback" not in line,
            f"does not name {culprit}": culprit in line,
            f"does not say {says}": says in line,
            "no remedy": bool(dash) and len(remedy.strip()) > 5,
            f"{len(line) - 1} characters": len(line) <= LONGEST + 1,
            f"written: {written}": not written,
        }
        broken = [f"{what}: {line.strip()}" for what, good in rules.items() if not good]
        return Refusal(broken, seconds, len(line) - 1)


def snapshot(root: Path) -> dict[str, Stamp]:
    """Every file and folder below ``root``, with what changes when it is written."""
    found, folders = {}, [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{path}/")
                    found[path] = ()
                else:
                    found[path] = stamp_of(root / path)
    return found


def stamp_of(path: Path) -> Stamp:
    if path.is_dir() and not path.is_symlink():
        return ()
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ctime_ns
