"""A process that imports everything once and forks a run per command line, to be killed.

Reads one JSON request per line, answers with one JSON line. It is a program of its own because a
process that has computed gradients, or has a GPU open, must not fork children that do the same.
``_forks.py`` is the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import mmap
import os
import resource
import runpy
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PRELOAD = ("fit3d_cli.lifting.lift", "fit3d_cli.finetuning.finetune", "fit3d_cli.commands._watch",
           "fit3d_cli.commands._show", "gsplat.strategy")  # fmt: skip
KINDS = ("write", "sync", "event")
WORKER = "fit3d_cli.lifting.worker"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
ORPHANS = 5.0  # seconds after which a process without its run counts as one


class Trap:
    """Counts what a run and its processes do to the disk, and kills it at one of these points.

    Args:
        kill: ``[kind, n]``: at the n-th ``write`` (half of it is written first), ``sync`` (not
            done) or progress ``event``, or, with the name of a stage, at its n-th unit; None lets
            it live.
        log: Stem of the files in which trace and steps are noted.
    """

    def __init__(self, kill: list[Any] | None, log: str) -> None:
        self.kill = kill
        self.run = os.getpid()
        self.counts = mmap.mmap(-1, 4 * len(KINDS))  # shared with what is forked from here
        self.paths: dict[int, str] = {}
        self.write, self.sync, self.open = os.write, os.fsync, os.open
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self.trace, self.steps = (os.open(f"{log}.{name}", flags) for name in ("trace", "steps"))

    def arm(self) -> None:
        def spied_open(path: Any, *args: Any, **options: Any) -> int:
            fd = self.open(path, *args, **options)
            self.paths[fd] = os.fspath(path)
            return fd

        def spied_write(fd: int, data: Any) -> int:
            if self.hit("write", self.paths.get(fd, "")):
                self.write(fd, memoryview(data)[: len(data) // 2])
                self.die()
            return self.write(fd, data)

        def spied_sync(fd: int) -> None:
            if self.hit("sync", self.paths.get(fd, "")):
                self.die()
            self.sync(fd)

        @contextlib.contextmanager
        def progress(*args: Any, **options: Any) -> Iterator[Callable[[Any], None]]:
            yield heard

        def heard(event: Any) -> None:
            if self.hit("event", event.stage) or self.kill == [event.stage, event.done]:
                self.die()

        os.write, os.fsync, os.open = spied_write, spied_sync, spied_open
        importlib.import_module("fit3d_cli.commands._watch").watch = progress

    def hit(self, kind: str, what: str) -> bool:
        place = 4 * KINDS.index(kind)
        (count,) = struct.unpack_from("i", self.counts, place)
        struct.pack_into("i", self.counts, place, count + 1)
        self.write(self.trace, (json.dumps([kind, count + 1, what]) + "\n").encode())
        return self.kill == [kind, count + 1]

    def die(self) -> None:
        """The whole run: a worker takes its caller along."""
        os.kill(self.run, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def count_steps(self, poison: list[int] | None) -> None:
        """Note every step of an optimisation, so that a second time can be told.

        Args:
            poison: A process and a step of fine-tuning from which on its losses are no numbers.
        """
        from fit3d_cli.finetuning.trainer import Trainer
        from fit3d_cli.lifting.geometry import GeometryFit

        terms = Trainer._terms

        def spoilt(trainer: Trainer, *args: Any) -> Any:
            # With one sample in a step, only one of the processes computes anything.
            here = poison and poison[0] == trainer.processes.rank and trainer.step >= poison[1]
            return terms(trainer, *args) * (float("nan") if here else 1.0)

        if poison:
            Trainer._terms = spoilt  # type: ignore[method-assign]
        for kind in (Trainer, GeometryFit):
            self._count(kind)

    def _count(self, kind: Any) -> None:
        advance = kind._advance

        def counted(optimisation: Any, *args: Any) -> Any:
            step = optimisation.step
            found = advance(optimisation, *args)
            if kind.__name__ == "Trainer":
                name = "training" if optimisation.processes.leads else "led"
            else:
                name = f"{float(optimisation.extent):.9g}"  # tells scenes from each other
            self.write(self.steps, f"{name} {step}\n".encode())
            return found

        kind._advance = counted


class ForkedWorker(subprocess.Popen):  # type: ignore[type-arg]
    """Starts the worker of a lift by a fork, which saves importing torch once more."""

    def _execute_child(self, args: Any, *rest: Any) -> None:  # type: ignore[override]
        if WORKER not in list(args):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[9:15]
        self.pid = os.fork()
        self._child_created = True
        if self.pid:
            self._close_pipe_fds(*rest[9:15])  # type: ignore[attr-defined]
            return
        for fd in {p2cwrite, c2pread, errread} - {-1}:
            os.close(fd)
        for fd, at in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2)):
            if fd not in (-1, at):
                os.dup2(fd, at)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.argv = list(args)
        try:
            importlib.import_module(WORKER).main()
        except BaseException:
            os._exit(70)
        finally:
            os._exit(71)


def run(job: dict[str, Any], rank: int, ready: int) -> int:
    """The child: one command line, its output in files.

    Args:
        job: What to run.
        rank: Of this one.
        ready: A pipe that is closed when signals may come.
    """
    from fit3d_cli import app

    os.setsid()
    log = job["log"] if job["ranks"] == 1 else f"{job['log']}.{rank}"
    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.environ |= {"FIT3D_TRIAL": log, **job.get("environment", {})}
    if job["ranks"] > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["ranks"]),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"]),
        }  # fmt: skip
    if job["before"]:
        runpy.run_path(job["before"])
    trap = Trap(job["kill"] if rank == job["victim"] else None, log)
    trap.arm()
    trap.count_steps(job["poison"])
    if not job["exec"]:
        subprocess.Popen = ForkedWorker  # type: ignore[misc]
    if job["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    begin = app.run

    def begun(argv: Sequence[str]) -> int:
        os.close(ready)  # by now the signal handlers are in place
        return begin(argv)

    app.run = begun
    if job["script"]:
        runpy.run_path(job["script"], {"trap": trap})
        return 0
    # As the installed program does: with its signal handlers, and with its farewell.
    sys.argv = ["fit3d", *job["argv"]]
    try:
        app.main()
    except SystemExit as stop:
        threading._shutdown()  # type: ignore[attr-defined]
        return int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70


def start(job: dict[str, Any]) -> list[int]:
    pids = []
    waiting, ready = os.pipe()
    for rank in range(job["ranks"]):
        pid = os.fork()
        if not pid:
            code = 99
            try:
                code = run(job, rank, ready)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    os.close(ready)
    os.read(waiting, 1)  # nothing is written: it ends when all have closed it
    os.close(waiting)
    return pids


def wait(pids: list[int]) -> dict[str, Any]:
    """Codes of the runs and when they ended, then whatever they left behind: we inherit it."""
    codes, ended = {}, {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        if pid in pids:
            codes[pid], ended[pid] = os.waitstatus_to_exitcode(status), time.monotonic()
    last = time.monotonic()
    orphans: list[str] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            continue
        if time.monotonic() - last > ORPHANS and not orphans:
            left = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
            for orphan in left:
                words = Path("/proc", orphan, "cmdline").read_bytes().replace(bytes(1), b" ")
                orphans.append(words.decode(errors="replace").strip())
                os.kill(int(orphan), signal.SIGKILL)
        time.sleep(0.005)
    return {"codes": [codes[pid] for pid in pids], "ended": [ended[pid] for pid in pids],
            "orphans": orphans, "left": time.monotonic() - last}  # fmt: skip


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for module in PRELOAD:
        importlib.import_module(module)
    with contextlib.suppress(ImportError):
        importlib.import_module(WORKER)
    from fit3d_cli.backbones.torchvision_shim import import_timm

    import_timm()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        pids = start(json.loads(line))
        print(json.dumps(pids), flush=True)
        print(json.dumps(wait(pids)), flush=True)


if __name__ == "__main__":
    main()
