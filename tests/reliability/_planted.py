"""The worker of ``fit3d lift`` with faults planted in it: ``python _planted.py {"scene": "kind"}``.

The product has no hooks for tests: the program that starts the worker is another one, and patches
what the worker calls when it comes to a scene that is on the list.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fit3d_cli.lifting import geometry, lifter, worker
from fit3d_cli.lifting.making import Job

_ROOM = 64 << 20  # bytes that a scene without memory may still take


def segfault(job: Job) -> None:
    ctypes.string_at(0)


def abort(job: Job) -> None:
    os.abort()


def killed(job: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def left(job: Job) -> None:
    os._exit(7)


def memory(job: Job) -> None:
    """Memory really runs out, in torch's allocator."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _ROOM, resource.RLIM_INFINITY))
    torch.empty(1 << 30)


def asleep(job: Job) -> None:
    time.sleep(1e6)


def stuck(job: Job) -> None:
    """In C, with the interpreter's lock: no signal handler and no thread of Python's runs."""
    while True:
        ctypes.PyDLL(None).sleep(1000)


def exception(job: Job) -> None:
    raise ZeroDivisionError("planted")


BEFORE: dict[str, Callable[[Job], None]] = {
    "segfault": segfault, "abort": abort, "killed": killed, "left": left, "memory": memory,
    "asleep": asleep, "stuck": stuck, "exception": exception,
}  # fmt: skip


class Poisoned:
    """Frames whose depth or pixels are not numbers."""

    def __init__(self, frames: Any, what: str) -> None:
        self._frames, self._what = frames, what

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frames, name)

    def __len__(self) -> int:
        return len(self._frames)

    def image(self, *args: Any) -> torch.Tensor:
        found: torch.Tensor = self._frames.image(*args)
        return found * float("nan") if self._what == "pixels" else found

    @property
    def depths(self) -> list[torch.Tensor | None]:
        known = list(self._frames.depths)
        return [None if d is None else d * float("nan") for d in known]


def poison(fit: Any, kind: str) -> None:
    """Let a fit go wrong in the middle."""
    if kind == "nan pixels":
        fit.frames = Poisoned(fit.frames, "pixels")
    elif kind == "nan poses":
        cameras = fit.frames.cameras
        spoilt = replace(cameras, viewmats=cameras.viewmats * float("nan"))
        fit.frames = replace(fit.frames, cameras=spoilt)
    elif kind == "diverges":
        fit.params["sh0"].data[:] = float("nan")
    elif kind == "drifts":  # silently another result: the check itself must notice
        fit.params["sh0"].data += 0.01


def main() -> None:
    planted: dict[str, str] = json.loads(sys.argv[1])
    prepare, depth_loss = lifter.prepare, geometry.depth_loss
    now = ""

    def spoilt(job: Job) -> Any:
        nonlocal now
        now = planted.get(job.capture.name, "")
        if now in BEFORE:
            BEFORE[now](job)
        fit = prepare(job)
        poison(fit, now)
        return fit

    def lost(rendered: Any, alphas: Any, depth: Any, scale: float) -> Any:
        spoilt = depth * float("nan") if now == "nan depth" else depth
        return depth_loss(rendered, alphas, spoilt, scale)

    lifter.prepare, geometry.depth_loss = spoilt, lost
    worker.main()


if __name__ == "__main__":
    main()
