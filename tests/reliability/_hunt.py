"""Many hostile files through a reader, in processes that may hang, crash or run out of memory."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import mmap
import os
import re
import resource
import signal
import struct
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fit3d_cli.errors import Fit3dError
from tests.reliability.base import CannotRun

_HANG_SECONDS = 20.0  # of wall-clock on a busy machine; what is slower than its bound is told too
_ALONE_SECONDS = 1200
_ROOM = 256 << 20  # of address space: an allocation that a file only announced fails
_LINE = 240


@dataclass
class Prey:
    """What is hunted.

    Attributes:
        folder: A place for names, not for content: the files are in memory.
        make: The name and the content of case i.
        read: Reads the file of case i; anything but ``refused`` out of it is a defect.
        judge: Looks at what was read from the content; its words are a defect.
        refused: How a reader refuses.
        names: All that ``make`` gives.
        seconds: The longest that a case may take.
        room: Bytes that reading may take beside twice the file.
    """

    folder: Path
    make: Callable[[int], tuple[str, bytes]]
    read: Callable[[int, Path], Any]
    judge: Callable[[int, bytes, Any], str]
    refused: type[Fit3dError] | tuple[type[Fit3dError], ...]
    names: tuple[str, ...] = ("a.f3d",)
    seconds: float = 0.1
    room: int = 16 << 20


@dataclass
class Bag:
    """What was found."""

    cases: int = 0
    accepted: int = 0
    worst: float = 0.0
    spent: float = 0.0
    grown: int = 0
    broken: list[str] = field(default_factory=list)

    def figure(self) -> str:
        """One line for the table."""
        return (
            f"{self.cases:,} files: {self.cases - self.accepted:,} refused, {self.accepted:,} "
            f"read; {len(self.broken)} defects; worst {self.worst * 1e3:.0f} ms, mean "
            f"{self.spent / max(self.cases, 1) * 1e3:.2f} ms; memory +{self.grown / 2**20:.1f} MiB"
        )


def hunt(prey: Prey, cases: range, *, workers: int = 1) -> Bag:
    """Try every case, in forked processes that share the work."""
    parts = [_Part(prey, cases[k::workers]) for k in range(workers)]
    bag = Bag()
    for part in parts:
        got = part.wait()
        bag = Bag(
            bag.cases + got.cases, bag.accepted + got.accepted, max(bag.worst, got.worst),
            bag.spent + got.spent, max(bag.grown, got.grown), bag.broken + got.broken,
        )  # fmt: skip
    return bag


def alone(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, in JSON types, from a forked process of its own.

    Raises:
        RuntimeError: It raised, or its process ended otherwise.
    """
    return apart([work])[0]


def apart(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each returns, in JSON types, from forked processes that run side by side.

    Raises:
        RuntimeError: One raised, or its process ended otherwise.
    """
    begun = [_begin(work) for work in works]
    results = []
    for pid, end in begun:
        with os.fdopen(end) as file:
            text = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        results.append(json.loads(text) if text else {"error": f"ended with {code}"})
    for told in results:
        if "error" in told:
            raise RuntimeError(told["error"])
    return [told["value"] for told in results]


def _begin(work: Callable[[], Any]) -> tuple[int, int]:
    end, other = os.pipe()
    pid = os.fork()
    if pid:
        os.close(other)
        return pid, end
    os.close(end)
    _quieten()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_ALONE_SECONDS)
    with os.fdopen(other, "w") as file:
        try:
            json.dump({"value": work()}, file)
        except BaseException as error:
            json.dump({"error": f"{type(error).__name__}: {error}"[:500]}, file)
    os._exit(0)


def _quieten() -> None:
    """A forked process may not wait for threads that it does not have."""
    import torch

    faulthandler.disable()  # a crash is told once, by the parent
    torch.set_num_threads(1)
    gc.freeze()  # what the parent made is not looked at again


class _Part:
    """A process with a share of the cases."""

    def __init__(self, prey: Prey, cases: range) -> None:
        self.at = mmap.mmap(-1, 8)  # the case that is tried, seen from outside
        self.end, end = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(end)
            return
        code = 1
        try:
            os.close(self.end)
            bag = _try_all(prey, cases, self.at)
            with os.fdopen(end, "w") as file:
                json.dump(asdict(bag), file)
            code = 0
        except BaseException:  # the hunt itself is at fault: say where
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self) -> Bag:
        last, since = b"", time.monotonic()
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if self.at[:8] != last:
                last, since = self.at[:8], time.monotonic()
            elif time.monotonic() - since > _HANG_SECONDS:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        with os.fdopen(self.end) as file:
            text = file.read()
        (case,) = struct.unpack("<q", self.at[:8])
        if ended[1]:
            how = os.waitstatus_to_exitcode(ended[1])
            return Bag(case, broken=[f"case {case}: the process ended with {how}"])
        return Bag(**json.loads(text))


def _try_all(prey: Prey, cases: range, at: mmap.mmap) -> Bag:
    _quieten()
    place = _Place(prey.folder, prey.names)
    bag = Bag()
    for case in cases[:40]:  # what is imported and cached once is no growth
        _try(prey, place, case, Bag())
    base, largest = memory(reset=True), 0
    # Room is what is mapped now and some more, but for sanitizers, which map everything.
    resource.setrlimit(resource.RLIMIT_AS, (_mapped() + _ROOM, resource.RLIM_INFINITY))
    for case in cases:
        at[:8] = struct.pack("<q", case)
        largest = max(largest, _try(prey, place, case, bag))
    bag.grown = memory() - base
    if bag.grown > 2 * largest + prey.room:
        bag.broken.append(f"memory grew by {bag.grown} bytes, the largest file has {largest}")
    return bag


def _try(prey: Prey, place: _Place, case: int, bag: Bag) -> int:
    name, content = prey.make(case)
    place.fill(content)
    bag.cases += 1
    path = place.paths[name]
    spent = _once(prey, path, case, content, bag)
    for _ in range(2):  # a machine that does other things as well
        if spent > prey.seconds:
            spent = min(spent, _once(prey, path, case, content, Bag()))
    if spent > prey.seconds:
        bag.broken.append(f"case {case}: {spent * 1e3:.0f} ms for {len(content)} bytes")
    bag.worst = max(bag.worst, spent)
    bag.spent += spent
    return len(content)


def _once(prey: Prey, path: Path, case: int, content: bytes, bag: Bag) -> float:
    began = time.process_time()
    try:
        value = prey.read(case, path)
    except prey.refused as error:
        spent = time.process_time() - began
        line = str(error).replace(str(path), "")
        if len(line) > _LINE or not line.isprintable() or not error.hint or not error.where:
            bag.broken.append(f"case {case}: the error is no line with a remedy: {line[:300]!r}")
    except BaseException as error:
        spent = time.process_time() - began
        bag.broken.append(f"case {case}: {type(error).__name__}: {str(error)[:200]}")
    else:
        spent = time.process_time() - began
        bag.accepted += 1
        try:
            wrong = prey.judge(case, content, value)
        except Exception as error:
            wrong = f"read, but {type(error).__name__}: {str(error)[:200]}"
        if wrong:
            bag.broken.append(f"case {case}: {wrong}")
    return spent


class _Place:
    """A file in memory under the names that readers may look at."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.fd = os.memfd_create("hunt")
        inside = folder / str(os.getpid())
        inside.mkdir()
        self.paths = {name: inside / name for name in names}
        for path in self.paths.values():
            path.symlink_to(f"/proc/{os.getpid()}/fd/{self.fd}")

    def fill(self, content: bytes) -> None:
        os.ftruncate(self.fd, len(content))
        os.pwrite(self.fd, content, 0)


def memory(*, reset: bool = False) -> int:
    """The most memory that this process held, in bytes; reset starts again from what it holds."""
    if reset:
        with suppress(AttributeError):  # freed memory that the allocator kept would count as held
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _mapped() -> int:
    return _status("VmSize")


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", text)
    if found is None:
        raise CannotRun("needs /proc/self/status of Linux")
    return int(found[1]) << 10
