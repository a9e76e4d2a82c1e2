"""The caller's end of a worker process: start it, ask it, tell how it ended, stop it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fit3d_cli import errors
from fit3d_cli.errors import EnvironmentFault, Fit3dError
from fit3d_cli.explain import EXIT_BUG
from fit3d_cli.progress import OnEvent, Progress, ignore

WORKER = [sys.executable, "-m", "fit3d_cli.lifting.worker"]
_PATIENCE = 1.5  # seconds a worker has to remove its temporary files when it is told to stop
_LAST_WORDS = 3.0  # seconds a worker that hangs has to write where it is
_KEPT_WORDS = 64 << 10  # bytes of what a worker printed last


class Trouble(Exception):
    """A worker did not do what it was asked for.

    Args:
        error: What the user should know.
        words: What else the worker had to say: a traceback, what it printed.
        lost: It ended or was ended, or its memory is exhausted: a fresh one may succeed.
    """

    def __init__(self, error: Fit3dError, words: str = "", *, lost: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.words, self.lost = error, words, lost


class Worker:
    """A process that lifts one scan after the other.

    Args:
        request: What it needs to know at the start; see ``worker``.

    Raises:
        Trouble: It did not come up.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._stage = ""
        self._rest = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        log = self._log.fileno()
        fcntl.fcntl(log, fcntl.F_SETFL, os.O_APPEND)  # so that it can be emptied between scans
        # A session of its own: Ctrl-C is for the caller, and children can be ended with it.
        self._process = subprocess.Popen(
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[log],
            env={**os.environ, "PYTHONSAFEPATH": "1"}, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._answers = self._process.stdout
        self._questions = self._process.stdin
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        try:
            self.ask({**request, "log": log, "caller": os.getpid()}, ignore)
        except BaseException:
            self.stop()
            raise

    def ask(self, question: Mapping[str, Any], on_event: OnEvent, stall: float = 0.0) -> Any:
        """Send a question and wait for its answer.

        Args:
            question: JSON types.
            on_event: Told about progress.
            stall: Seconds without a sign of life after which it counts as hung; 0 = never.

        Raises:
            Trouble: It failed, ended or hangs. Only after the first can it be asked again.
        """
        os.ftruncate(self._log.fileno(), 0)
        self._stage = ""
        with suppress(BrokenPipeError):  # it is gone: how it ended follows
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()
        while True:
            try:
                line = self._line(stall or None)
            except TimeoutError:
                raise self._hung(stall) from None
            if not line:
                raise self._ended()
            message = json.loads(line)
            if "event" in message:
                stage, done, total, note, item, place = message["event"]
                self._stage = stage.rpartition(": ")[2]
                on_event(Progress(stage, done, total, note, tuple(item), tuple(place)))
            elif "record" in message:
                level, name, text = message["record"]
                logging.getLogger(name).log(level, "%s", text)
            elif "failed" in message:
                raise _refused(message["failed"])
            else:
                return message["done"]

    def close(self) -> None:
        """Let it end by itself."""
        self._questions.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill()

    def stop(self) -> None:
        """End it, in the middle of whatever it does."""
        try:
            self._process.terminate()
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when the user asks a second time
            self._kill()

    def _kill(self) -> None:
        """The process, and whatever it started, is gone after this."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._questions, self._answers, self._log):
            with suppress(OSError):
                stream.close()

    def _line(self, timeout: float | None) -> bytes:
        """The next answer, or nothing if there will be none."""
        while b"\n" not in self._rest:
            if not self._selector.select(timeout):
                raise TimeoutError
            piece = os.read(self._answers.fileno(), 1 << 16)
            if not piece:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _hung(self, stall: float) -> Trouble:
        self._process.send_signal(signal.SIGABRT)  # it writes where every thread is
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        return Trouble(
            EnvironmentFault(
                f"no progress for {stall:g} s{self._where()}",
                hint="raise --set lift.stall if it is only slow",
            ),
            self._words(),
            lost=True,
        )

    def _ended(self) -> Trouble:
        try:
            code = self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            code = 0
        if code == -signal.SIGKILL:
            error: Fit3dError = EnvironmentFault(
                f"killed{self._where()}, probably for want of memory",
                hint="lower a width or --dim, or use a larger machine",
            )
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            error = Fit3dError(
                f"crashed{self._where()} ({how})", hint="this is a bug of fit3d: report it"
            )
            error.exit_code = EXIT_BUG
        return Trouble(error, self._words(), lost=True)

    def _where(self) -> str:
        return f" in {self._stage}" if self._stage else ""

    def _words(self) -> str:
        """What it printed since it was asked."""
        log = self._log.fileno()
        size = os.fstat(log).st_size
        data = os.pread(log, _KEPT_WORDS, max(0, size - _KEPT_WORDS))
        return data.decode("utf-8", "replace")


def _refused(failed: Mapping[str, Any]) -> Trouble:
    kind = getattr(errors, failed["type"], Fit3dError)
    error: Fit3dError = kind(failed["what"], where=failed["where"], hint=failed["hint"])
    error.exit_code = failed["code"]
    return Trouble(error, failed["trace"], lost=failed["memory"])
