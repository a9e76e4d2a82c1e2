"""A process that imports everything once and forks a child per command line, to be killed.

Reads one JSON job per line, answers with one JSON line. It is a program of its own because a
process that has computed gradients, or has a GPU open, must not fork children that do the same.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PRELOAD = ("fit3d_cli.lifting.lift", "fit3d_cli.finetuning.finetune", "fit3d_cli.commands._watch",
           "gsplat.strategy")  # fmt: skip


class Trap:
    """Counts what a run does to the disk, and kills it at one of these points.

    Args:
        kill: ``[kind, n]``: at the n-th ``write`` (half of it is written first), ``sync`` (not
            done) or progress ``event``; None lets it live.
    """

    def __init__(self, kill: list[Any] | None) -> None:
        self.kill = kill
        self.trace: list[tuple[str, int, str]] = []
        self.counts = {"write": 0, "sync": 0, "event": 0}
        self.paths: dict[int, str] = {}

    def arm(self) -> None:
        write, sync, opening = os.write, os.fsync, os.open

        def spied_open(path: Any, *args: Any, **options: Any) -> int:
            fd = opening(path, *args, **options)
            self.paths[fd] = os.fspath(path)
            return fd

        def spied_write(fd: int, data: Any) -> int:
            if self.hit("write", self.paths.get(fd, "")):
                write(fd, memoryview(data)[: len(data) // 2])
                self.die()
            return write(fd, data)

        def spied_sync(fd: int) -> None:
            if self.hit("sync", self.paths.get(fd, "")):
                self.die()
            sync(fd)

        @contextlib.contextmanager
        def progress(*args: Any, **options: Any) -> Iterator[Callable[[Any], None]]:
            yield lambda event: self.die() if self.hit("event", event.stage) else None

        os.write, os.fsync, os.open = spied_write, spied_sync, spied_open
        importlib.import_module("fit3d_cli.commands._watch").watch = progress

    def hit(self, kind: str, what: str) -> bool:
        self.counts[kind] += 1
        self.trace.append((kind, self.counts[kind], what))
        return self.kill == [kind, self.counts[kind]]

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def run(job: dict[str, Any]) -> int:
    """The child: one command line, its output in files."""
    from fit3d_cli import app

    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{job['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    trap = Trap(job.get("kill"))
    trap.arm()
    limit = job.get("limit")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = app.run(job["argv"])
    if not limit:
        Path(f"{job['log']}.trace").write_text(json.dumps(trap.trace))
    return code


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for module in PRELOAD:
        importlib.import_module(module)
    from fit3d_cli.backbones.torchvision_shim import import_timm

    import_timm()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = 99
            try:
                code = run(json.loads(line))
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)


if __name__ == "__main__":
    main()
