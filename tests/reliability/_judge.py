"""What may come out of hostile input: a result, or one line with the file and a remedy; soon."""

from __future__ import annotations

import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fit3d_cli.errors import Fit3dError
from tests.reliability.base import Outcome

AREA = "Hostile and broken input"
SLOWEST = 0.1  # seconds of processor time for a small file
BOMB = 0.01
SPARE = 256 << 20  # bytes that reading something small may take


@contextmanager
def short_of_memory(spare: int) -> Iterator[None]:
    """No more than ``spare`` bytes beside what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Stuck(Exception):
    """It waits for something that never comes."""


@contextmanager
def patience(seconds: float = 20.0) -> Iterator[None]:
    """Ends what waits for ever, for a pipe for example."""

    def stop(*_: object) -> None:
        raise Stuck(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Judge:
    """Calls what must either work or fail with one good line, and takes the time.

    Args:
        outcome: Where broken promises are noted.
        kinds: The errors that may come.
        limit: Seconds of processor time that a call may take.
    """

    def __init__(self, outcome: Outcome, kinds: tuple[type[Fit3dError], ...], limit: float) -> None:
        self.outcome, self.kinds, self.limit = outcome, kinds, limit
        self.worst = 0.0
        self.ends: Counter[str] = Counter()

    def call(
        self, what: str, action: Callable[[], object], names: str = "", times: float = 1.0
    ) -> tuple[object, Exception | None]:
        """Its result, or the error; ``times`` the limit is allowed for what is large by right."""
        result, failure = None, None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            began = time.process_time()
            try:
                with patience():
                    result = action()
            except Exception as error:
                failure = error
            took = time.process_time() - began
            for _ in range(2):  # a collection of garbage is not the reader's time
                if took > self.limit * times:
                    began = time.process_time()
                    with suppress(Exception), patience():
                        action()
                    took = min(took, time.process_time() - began)
        self.outcome.cases += 1
        self.worst = max(self.worst, took / times)
        self.outcome.require(took <= self.limit * times, f"{what}: {took * 1000:.0f} ms")
        self.ends["read" if failure is None else "refused"] += 1
        if failure is not None:
            self.look_at(what, failure, names)
        return result, failure

    def look_at(self, what: str, error: Exception, names: str) -> None:
        if not isinstance(error, self.kinds):
            self.outcome.require(False, f"{what}: {type(error).__name__}: {str(error)[:200]}")
            return
        line = f"fit3d: error: {error}"
        good = "\n" not in line and len(line) <= 240 and names in line and bool(error.hint)
        self.outcome.require(good, f"{what}: {len(line)} characters: {line[:300]}")
