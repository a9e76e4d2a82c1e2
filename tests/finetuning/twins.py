"""Two processes of one training, forked from a process that has imported everything.

Reads jobs as JSON lines: a script or the arguments of ``fit3d``, a port and a file stem. Answers
with both exit codes. The children find in the environment what ``torchrun`` puts there.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from typing import Any

import torch

from fit3d_cli import app
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.commands import _show
from fit3d_cli.finetuning import finetune


def child(rank: int, job: dict[str, Any]) -> int:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"]),
    }  # fmt: skip
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(f"{job['stem']}.{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    try:
        if "script" in job:
            runpy.run_path(job["script"])
            return 0
        return app.run(job["argv"])
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    import_timm()
    assert _show and finetune
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        children = []
        for rank in range(2):
            pid = os.fork()
            if pid == 0:
                os._exit(child(rank, job))
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
