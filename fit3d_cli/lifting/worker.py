"""The process that lifts several scans: ``python -m`` this module, started by ``isolation``.

A process of its own, because a decoder or a kernel may crash, the system may kill what takes too
much memory, and a library may hang: that must cost one scene and not the run. stdin brings a JSON
request, then a scan per line; stdout carries one JSON object per line: ``{"event"}`` and
``{"record"}`` while it works, ``{"done"}`` or ``{"failed"}`` at the end of each. The process never
outlives its caller.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import resource
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from fit3d_cli.explain import EXIT_BUG, explain, out_of_memory
from fit3d_cli.progress import Progress
from fit3d_cli.settings import LiftSettings
from fit3d_cli.workspace import Workspace

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
Tell = Callable[[dict[str, Any]], None]


class Stopped(BaseException):
    """SIGTERM arrived; raised so that temporary files are removed on the way out."""


def main() -> NoReturn:
    """Answer the caller until it closes stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it and stops us
    signal.signal(signal.SIGTERM, _stop)
    tell = _answers()
    try:
        _serve(tell)
    except (Stopped, BrokenPipeError):
        os._exit(1)
    # Without the interpreter's farewell: static destructors of C++ have crashed there.
    os._exit(0)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


def _answers() -> Tell:
    """What writes a line to the caller. Whatever libraries print to stdout is no answer."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    alone = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with alone:
            stream.write(json.dumps(message) + "\n")
            stream.flush()

    return tell


def _serve(tell: Tell) -> None:
    line = sys.stdin.readline()
    if not line:  # the caller has gone already
        return
    request = json.loads(line)
    _die_with(request["caller"])
    _forward_records(request["level"], tell)
    # Only now what takes seconds: a caller that is killed meanwhile must not leave us behind.
    import torch

    from fit3d_cli.capture.sources.find import Scan
    from fit3d_cli.lifting.lifter import Lifter
    from fit3d_cli.lifting.results import Failed

    try:
        if torch.get_num_threads() != request["threads"]:
            torch.set_num_threads(request["threads"])
        settings = LiftSettings.model_validate(request["settings"])
        place = Workspace(Path(request["workspace"]))
        lifter = Lifter(settings, place, request["device"], request["seed"])
    except Exception as error:
        tell({"failed": _failure(error)})
        return
    # From here on what is printed belongs to a scene. Until now a crash was the user's to see.
    os.dup2(request["log"], 1)
    os.dup2(request["log"], 2)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    tell({"done": None})

    def on_event(event: Progress) -> None:
        tell({"event": astuple(event)})

    for line in sys.stdin:
        given = json.loads(line)
        scan = Scan(Path(given["path"]), given["name"], tuple(given["readers"]), given["source"])
        outcome = lifter.lift(scan, on_event)
        if isinstance(outcome, Failed):
            tell({"failed": _failure(outcome.error)})
        else:
            tell({"done": outcome.to_json()})


def _failure(error: Exception) -> dict[str, Any]:
    failure, code = explain(error)
    bug = code == EXIT_BUG  # its traceback goes into the log
    return {
        "type": type(failure).__name__,
        "what": failure.what,
        "where": failure.where,
        "hint": "this is a bug of fit3d: report it" if bug else failure.hint,
        "code": code,
        "memory": any(map(out_of_memory, _causes(error))),
        "trace": "".join(traceback.format_exception(error)),
    }


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from, however deep."""
    while error is not None:
        yield error
        error = error.__cause__


class _Forward(logging.Handler):
    """Sends records to the caller, who knows where the user wants them."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell({"record": (record.levelno, record.name, self.format(record))})


def _forward_records(level: int, tell: Tell) -> None:
    logging.basicConfig(level=level, handlers=[_Forward(tell)], force=True)
    if level < logging.WARNING:
        logging.captureWarnings(True)
    else:
        warnings.simplefilter("ignore")


def _die_with(caller: int) -> None:
    """Arrange that this process ends when its caller does, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != caller:
        os._exit(1)
    threading.Thread(target=_watch_stdin, daemon=True).start()


def _watch_stdin() -> None:
    """Where the system does not kill us: a closed pipe says that nobody waits any more."""
    poller = select.poll()
    poller.register(0, 0)  # hanging up is always reported
    poller.poll()
    os._exit(1)


if __name__ == "__main__":
    main()
