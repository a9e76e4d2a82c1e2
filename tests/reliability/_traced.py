"""Saves in forked children, with strace at one of their system calls."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.reliability.base import CannotRun

ROOT = Path(__file__).resolve().parents[2]
# Every call that touches a file or its name.
CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link",
    "linkat", "symlink", "unlink", "unlinkat", "ftruncate", "fallocate", "fchmod", "mkdir",
    "mkdirat", "rmdir", "flock", "close", "newfstatat", "fstat", "lstat", "stat", "getdents64",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a save ended.

    Attributes:
        code: 0, 3 for a typed error, otherwise a bug; negative for a signal.
        log: What strace saw.
    """

    code: int
    log: str = ""

    @property
    def injected(self) -> bool:
        return "(INJECTED)" in self.log or "+++ killed by SIGKILL +++" in self.log

    def count(self, call: str) -> int:
        return len(re.findall(rf"^\d+\s+{call}\(", self.log, re.MULTILINE))


class Saver:
    """Runs saves in children of a process that has imported everything."""

    def __enter__(self) -> Saver:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability._saving"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._answer() == "ready"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def start(self, **job: Any) -> int:
        return int(self._ask({"do": "save", **job}))

    def wait(self, pid: int) -> int:
        return int(self._ask({"do": "wait", "pid": pid}))

    def save(self, name: str, folder: Path, version: int, **faults: Any) -> Ended:
        """A save without strace."""
        job = {"save": name, "folder": str(folder), "version": version, **faults}
        return Ended(self.wait(self.start(**job)))

    def traced(self, name: str, folder: Path, version: int, *options: str, **faults: Any) -> Ended:
        """A save under strace, e.g. with ``inject=fsync:error=EIO:when=1``."""
        log = folder.with_suffix(".strace")
        job = {"save": name, "folder": str(folder), "version": version, **faults}
        pid = self.start(**job, gate=True)
        strace = subprocess.Popen(
            ["strace", "-f", "-o", str(log), *options, "-p", str(pid)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            strace.kill()
            strace.communicate()
            self._ask({"do": "go", "pid": pid})
            self.wait(pid)
            raise CannotRun(f"needs to trace: {said.strip()}")
        self._ask({"do": "go", "pid": pid})
        strace.communicate()
        return Ended(self.wait(pid), log.read_text())

    def _ask(self, job: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process that forks the saves has died")
        return json.loads(line)


@functools.cache
def saver() -> Saver:
    """One for all checks of a process: it takes seconds to import everything."""
    made = Saver().__enter__()
    atexit.register(made.__exit__, None, None, None)
    return made


def require_strace() -> None:
    """Raises CannotRun without strace."""
    if shutil.which("strace") is None:
        raise CannotRun("needs strace")
