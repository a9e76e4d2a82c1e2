"""Starts runs in forked children of a process that has imported everything; see ``_forking.py``."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 120.0  # seconds after which a run has hung
Trace = list[tuple[str, int, str]]
Steps = list[tuple[str, int]]


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code, or the negative signal.
        out: Its stdout.
        err: Its stderr.
        trace: What it did to the disk, and its events.
        steps: The optimisation steps that it finished: of what, and which.
        seconds: How long it lived.
        after: How long it lived after the last signal that was sent to it.
        orphans: Command lines of what survived it by five seconds.
    """

    code: int
    out: str
    err: str
    trace: Trace
    steps: Steps
    seconds: float = 0.0
    after: float = 0.0
    orphans: tuple[str, ...] = ()


@dataclass
class Running:
    """Runs that were started together.

    Attributes:
        pids: One per rank; each leads a session of its own.
        signalled: When a signal was sent last.
    """

    forker: Forker
    pids: list[int]
    logs: list[str]
    began: float = field(default_factory=time.monotonic)
    signalled: float = 0.0

    def send(self, number: int, *, group: bool, rank: int = 0) -> None:
        """Signal a run, or its whole session; it may have ended."""
        self.signalled = time.monotonic()
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pids[rank], number)

    def pause(self, seconds: float) -> None:
        """Let them run for a while, or until they have ended."""
        self.forker.listen(seconds)

    def wait(self) -> list[Ended]:
        """How they ended."""
        told = self.forker.answer()
        return [
            Ended(
                code, Path(f"{log}.stdout").read_text(), Path(f"{log}.stderr").read_text(),
                [tuple(e) for e in map(json.loads, _lines(f"{log}.trace"))],
                [(line.split()[0], int(line.split()[1])) for line in _lines(f"{log}.steps")],
                ended - self.began, ended - self.signalled if self.signalled else 0.0,
                tuple(told["orphans"]),
            )
            for code, ended, log in zip(told["codes"], told["ended"], self.logs, strict=True)
        ]  # fmt: skip


class Forker:
    """The process that forks.

    Args:
        folder: For the output of runs; their working directory.

    Attributes:
        before: A script that every run begins with, to plant a defect.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.before = ""
        script = Path(__file__).with_name("_forking.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=folder, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
                             "OMP_WAIT_POLICY": "PASSIVE", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )  # fmt: skip
        self._unread = b""
        assert self.answer() == "ready"

    def __call__(self, *argv: object, **job: Any) -> Ended:
        """A run from start to end."""
        return self.start(*argv, **job).wait()[0]

    def start(self, *argv: object, ranks: int = 1, **job: Any) -> Running:
        """Start a run.

        Args:
            argv: Command line.
            ranks: How many processes share it.
            job: ``kill``, ``victim`` (its rank), ``limit``, ``poison``, ``script`` (instead of
                the command line), ``before`` (a script, too), ``exec`` (let a worker be started
                as it really is), see ``_forking.run``.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        known = {"kill": None, "victim": 0, "limit": 0, "poison": None, "script": "",
                 "before": self.before, "exec": False}  # fmt: skip
        assert job.keys() <= {*known, "environment"}, job
        whole = {"argv": list(map(str, argv)), "ranks": ranks, "port": port, "log": str(self.log)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(known | whole | job).encode() + b"\n")
        self.process.stdin.flush()
        logs = [f"{self.log}.{rank}" for rank in range(ranks)] if ranks > 1 else [str(self.log)]
        return Running(self, self.answer(), logs)

    def answer(self) -> Any:
        if not self.listen(PATIENCE):
            self.close()
            raise TimeoutError(f"a run went on for {PATIENCE:.0f} s")
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def listen(self, seconds: float) -> bool:
        """Wait at most that long for a line; whether there is one."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, end - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                return False
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, "the process that forks has ended"
            self._unread += data
        return True

    def close(self) -> None:
        """End the process and what it started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split() if children.exists() else ():
            os.kill(int(pid), signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


def _lines(path: str) -> list[str]:
    """The whole lines of a file that is written by what gets killed."""
    file = Path(path)
    text = file.read_text() if file.exists() else ""
    file.unlink(missing_ok=True)
    return text.split("\n")[:-1]
