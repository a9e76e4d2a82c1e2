"""A forked child whose every step outside is seen: programs, network, code, files it writes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Audit events that reading data has no reason to cause.
REACHING = (
    "pickle.find_class", "marshal.load", "exec", "compile", "code.__new__", "subprocess.",
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.", "http.client.",
    "webbrowser.", "ctypes.dlopen", "os.putenv", "os.chmod", "os.chown", "os.kill",
    "sqlite3.connect", "shutil.unpack_archive",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
             "os.truncate", "shutil.rmtree", "shutil.move")  # fmt: skip


class Watch:
    """An audit hook that notes what must not be; switched on by ``on``.

    Args:
        inside: The one folder that may be written to.
    """

    def __init__(self, inside: Path) -> None:
        self.inside = str(inside.resolve())
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in "wax+" for c in mode or "") or bool((flags or 0) & WRITING)
            if writes and self._outside(path):
                self.note(f"open for writing: {path!r}")
        elif event.startswith(_CHANGING):
            if self._outside(arguments[0]):
                self.note(f"{event}: {arguments[0]!r}")
        elif event.startswith(REACHING):
            self.note(f"{event} {arguments[:1]!r}"[:160])

    def _outside(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        whole = os.path.realpath(os.fsdecode(path))
        return not f"{whole}/".startswith(f"{self.inside}/") and whole != os.devnull

    def note(self, what: str) -> None:
        if len(self.seen) < 50:
            self.seen.append(what)


def in_child(work: Callable[[], Any], seconds: float) -> Any:
    """What ``work`` returns, plain JSON types, from a forked process.

    Raises:
        RuntimeError: It died, or took longer.
    """
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(end)
            answer = json.dumps(work()).encode()
            with os.fdopen(begin, "wb") as pipe:
                pipe.write(answer)
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    os.close(begin)
    late = time.monotonic() + seconds
    try:
        with os.fdopen(end, "rb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            answer = b""
            while True:
                part = pipe.read()
                if part == b"":
                    break
                answer += part or b""
                if time.monotonic() > late:
                    raise RuntimeError(f"not done after {seconds} s")
                if part is None:
                    time.sleep(0.005)
    except RuntimeError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"ended with {os.waitstatus_to_exitcode(status)}")
    return json.loads(answer)
