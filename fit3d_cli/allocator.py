"""Freed memory goes back to the system while long loops run.

Aligned allocations, which are all of torch's, seldom fit where glibc freed their like
(sourceware.org bugs 14581 and 30723): making and letting go of one picture after the other grew
the heap by half of each, without end. Elsewhere there is nothing to do.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

# To give back takes milliseconds, and to take again as long: bytes, and a share of what is held.
_STEP, _SHARE = 8 << 20, 64
_STATUS = Path("/proc/self/statm")
_low = 0  # the least that was held since memory was given back


def settle() -> None:
    """Give freed memory back if the process has grown; takes microseconds if it has not."""
    global _low
    if _trim() is None:
        return
    now = _held()
    _low = min(_low, now)
    if now - _low > max(_STEP, _low // _SHARE):
        give_back()
        _low = _held()


def give_back() -> None:
    """Let the allocator return all that was freed."""
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """The C library's ``malloc_trim``; None where it has no such function."""
    if not _STATUS.exists():
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _held() -> int:
    """Bytes in memory that are no file's."""
    resident, shared = map(int, _STATUS.read_bytes().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
