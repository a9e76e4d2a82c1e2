"""A process that imports once and forks a child per command line, with as little as it is given.

One JSON job per line in: ``argv``, and beside it ``memory`` (bytes of addresses beyond what is
taken already), ``disk`` (bytes that are said to be free) and ``try`` (needs are recorded and never
refused). One JSON answer out.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from fit3d_cli import app, preflight

USERS = ("fit3d_cli.lifting.lifter", "fit3d_cli.finetuning.finetune")
PRELOAD = (*USERS, "fit3d_cli.commands._watch", "fit3d_cli.rendering", "fit3d_cli.probing.run",
           "fit3d_cli.rooms", "fit3d_cli.comparing.compare", "gsplat.strategy")  # fmt: skip


def status(name: str) -> int:
    """A figure of ``/proc/self/status``, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def run(job: dict[str, Any]) -> dict[str, Any]:
    answer = Path(job["answer"])
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{answer}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    asked: list[dict[str, int]] = []
    if job.get("try"):
        for module in USERS:
            importlib.import_module(module).require = (  # type: ignore[attr-defined]
                lambda needs, **_: asked.append(vars(needs))
            )
    if job.get("disk") is not None:
        honest = shutil.disk_usage
        shutil.disk_usage = lambda path: honest(path)._replace(free=job["disk"])  # type: ignore
    before = status("VmRSS")
    if job.get("memory") is not None:
        limit = status("VmSize") + job["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    began = time.process_time()  # the machine may have other work
    code = app.run(job["argv"])
    seconds = time.process_time() - began
    return {
        "code": code, "seconds": seconds, "needs": asked, "used": status("VmHWM") - before,
        "said": Path(f"{answer}.err").read_text(),
    }  # fmt: skip


def main() -> None:
    import torch

    torch.set_num_threads(1)
    assert preflight.SWITCH not in os.environ
    for module in PRELOAD:
        importlib.import_module(module)
    from fit3d_cli.backbones.torchvision_shim import import_timm

    import_timm()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer = Path(job["answer"])
        answer.unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            try:
                answer.write_text(json.dumps(run(job)))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        failed = {"code": -1, "said": "died", "seconds": 0.0, "needs": [], "used": 0}
        print(answer.read_text() if answer.exists() else json.dumps(failed), flush=True)


if __name__ == "__main__":
    main()
