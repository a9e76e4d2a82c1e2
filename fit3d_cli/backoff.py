"""Out of memory: try again with half as much at once, and say what was needed and what there is.

Only what says of itself that it is out of memory is caught; every other failure passes through.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from fit3d_cli.device import available_memory
from fit3d_cli.errors import MemoryFault, size_text
from fit3d_cli.explain import out_of_memory as no_memory

HALVINGS = 3
T = TypeVar("T")
R = TypeVar("R")

_NEED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|[KMGT]iB)")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Backoff:
    """How many items are worked on at once: half as many after each out-of-memory.

    Args:
        option: The setting that says how many, e.g. ``lift.backbone.batch``; errors name it.
        size: How many are tried at first.
        device: Where the memory is.

    Attributes:
        size: How many at most, as learnt so far. It never grows again: what did not fit once
            would fail, slowly, at every batch.
    """

    def __init__(self, option: str, size: int, device: torch.device | str = "cpu") -> None:
        self.option, self.size, self.device = option, size, torch.device(device)
        self._left = HALVINGS

    def map(self, work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
        """``work`` on pieces of at most ``size`` items, their results in one list.

        Args:
            work: Gives one result per item, changes nothing that lasts until it returns, and
                gives the same for an item whatever others are in its piece.
            items: All items.

        Raises:
            MemoryFault: Not even the smallest piece fits.
        """
        done: list[R] = []
        while len(done) < len(items):
            piece = items[len(done) : len(done) + self.size]
            try:
                done += work(piece)
                continue
            except Exception as error:
                if not self.halve(error, len(piece)):
                    raise
            self.release()
        return done

    def attempt(self, work: Callable[[int], R]) -> R:
        """``work(size)``, with a smaller ``size`` until there is memory for it.

        Args:
            work: Changes nothing that lasts until it returns.

        Raises:
            MemoryFault: Not even the smallest fits.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not self.halve(error, self.size):
                    raise
            self.release()

    def halve(self, error: Exception, at_once: int, least: int = 1) -> bool:
        """Learn from a failure.

        Args:
            error: What happened.
            at_once: How many items it happened with.
            least: Pieces cannot be smaller.

        Returns:
            False if the failure stands as it is: it was not for want of memory, or says itself
            what to do and nothing is left to halve. True if it is worth trying again with
            ``size`` items, after ``release`` outside of the ``except`` block: until then the
            failed frames hold their tensors.

        Raises:
            MemoryFault: There was no memory, and nothing is left to halve.
        """
        if not no_memory(error):
            return False
        if at_once <= least or not self._left:
            if isinstance(error, MemoryFault):
                return False
            raise out_of_memory(error, self.option, at_once, self.device, least) from error
        self._left -= 1
        self.size = max(least, (at_once + 1) // 2)
        _tell(f"out of memory: {self.option} {at_once} -> {self.size}")
        return True

    def release(self) -> None:
        """Give back what the failed attempt still holds."""
        gc.collect(1)  # cycles of the failed attempt are young; all of the heap takes a while
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(
    error: BaseException, option: str, at_once: int, device: torch.device, least: int
) -> MemoryFault:
    """The typed error for memory that is not there: what was needed, what is free, what to do."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What torch has reserved and does not use is there for us too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        have = f"{size_text(free)} of {size_text(total)} are free on {device}"
    else:
        known = available_memory()
        have = "" if known is None else f"{size_text(known)} are free"
    found = _NEED.search(str(error))
    need = ""
    if found:
        need = f"{size_text(float(found[1]) * _UNITS[found[2]])} more are needed"
    told = ", ".join(part for part in (need, have) if part)
    what = f"out of memory with {at_once} at once" + (f": {told}" if told else "")
    smaller = f"give less than {at_once}, " if at_once > least else ""
    return MemoryFault(
        what, where=option,
        hint=f"{smaller}use smaller pictures or a smaller model, or close other programs",
    )  # fmt: skip


_told: set[str] = set()


def _tell(note: str) -> None:
    """Once per process: a job has many batches, and the user needs to know once."""
    if note not in _told:
        _told.add(note)
        logging.getLogger(__name__).warning(note)
