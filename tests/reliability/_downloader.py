"""A process that imports once and forks a child per download, which may kill itself.

One JSON job per line in, one JSON answer out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from fit3d_cli.backbones import fetching, hub
from fit3d_cli.errors import Fit3dError
from tests.reliability._hub import FILE, REPOSITORY

SPIED = ("open", "write", "fsync", "replace", "symlink", "unlink", "rename")


def arm(kill: int) -> list[int]:
    """Kill this process at the n-th call that changes the disk; half of a write is done first."""
    count = [0]

    def spy(name: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == kill:
                if name == "write":
                    honest(args[0], memoryview(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(*args, **options)

        return run

    for name in SPIED:
        setattr(os, name, spy(name, getattr(os, name)))
    return count


def download(job: dict[str, Any]) -> dict[str, Any]:
    constants.ENDPOINT, constants.HF_HUB_CACHE = job["endpoint"], job["cache"]
    constants.HF_HUB_OFFLINE = False
    os.environ["FIT3D_PINS"] = job["pins"]
    fetching.PAUSE = 0.01
    count = arm(job["kill"])
    try:
        path = str(hub.hub_file(REPOSITORY, FILE, "midget"))
    except Fit3dError as error:
        return {"error": str(error), "points": count[0]}
    return {"path": path, "points": count[0]}


def main() -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        del os.environ[name]
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer = Path(job["answer"])
        answer.unlink(missing_ok=True)
        pid = os.fork()
        if not pid:
            try:
                made = json.dumps(download(job))
                os.close(1)
                answer.write_text(made)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        print(answer.read_text() if answer.exists() else json.dumps({"killed": True}), flush=True)


if __name__ == "__main__":
    main()
