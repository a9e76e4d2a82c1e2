"""A process that imports everything once and forks one child per measurement.

Reads one JSON job per line and answers with one JSON line: what the called function returned, and
how far the child's memory rose. The children start alike, so that their peaks can be compared.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability._talking import Talking

PRELOAD = ("fit3d_cli.lifting.lift", "fit3d_cli.finetuning.finetune", "fit3d_cli.probing.run",
           "fit3d_cli.probing.tasks.corr", "fit3d_cli.commands._watch", "fit3d_cli.commands._show",
           "fit3d_cli.rooms.writing", "fit3d_cli.rendering", "gsplat.strategy")  # fmt: skip
# One thread and few arenas: what else the allocators keep aside depends on chance.
QUIET = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "OMP_WAIT_POLICY": "passive"}


class Measuring:
    """The other end: a started process."""

    def __init__(self) -> None:
        self._talking = Talking("tests.reliability._measuring", QUIET)
        self.close = self._talking.close

    def call(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Run ``module:function`` in a child.

        Returns:
            ``value``: what it returned; ``error``: its traceback or an empty string; ``rise``:
            bytes by which the peak of the resident set exceeds what it was at the start.
        """
        found: dict[str, Any] = self._talking.ask([function, arguments])
        return found

    def command(self, *words: object) -> int:
        """By how many bytes ``fit3d WORDS`` rises; it must end well."""
        found = self.call("tests.reliability._measuring:command", words=[str(w) for w in words])
        assert not found["error"], found["error"]
        code, said = found["value"]
        assert code == 0, f"fit3d {' '.join(map(str, words))}: {code}: {said}"
        return int(found["rise"])


@contextlib.contextmanager
def measuring() -> Iterator[Measuring]:
    """The one process of this kind; it ends with the process that asked first."""
    yield _shared()


@functools.cache
def _shared() -> Measuring:
    made = Measuring()
    atexit.register(made.close)
    return made


def command(words: list[str]) -> tuple[int, str]:
    """``fit3d WORDS``: the exit code, and the end of what it said."""
    from fit3d_cli import app

    code = app.run(words)
    sys.stderr.flush()
    return code, Path(f"/proc/self/fd/{2}").read_text()[-600:]


def resident(key: str) -> int:
    """``VmRSS`` or ``VmHWM`` in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"this system tells no {key}")


def _child(function: str, arguments: dict[str, Any], out: int) -> None:
    said = os.memfd_create("said")
    os.dup2(said, 1)
    os.dup2(said, 2)
    module, _, name = function.partition(":")
    found: dict[str, Any] = {"value": None, "error": ""}
    # The peak so far is that of the parent's imports.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    try:
        found["value"] = getattr(importlib.import_module(module), name)(**arguments)
    except BaseException:
        found["error"] = traceback.format_exc()
    found["rise"] = resident("VmHWM") - before
    os.write(out, (json.dumps(found) + "\n").encode())


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for module in PRELOAD:
        importlib.import_module(module)
    from fit3d_cli.backbones.torchvision_shim import import_timm

    import_timm()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        function, arguments = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _child(function, arguments, writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            told = answer.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        lost = json.dumps({"value": None, "error": f"the child ended with {status}", "rise": 0})
        print(told.strip() or lost, flush=True)


if __name__ == "__main__":
    main()
