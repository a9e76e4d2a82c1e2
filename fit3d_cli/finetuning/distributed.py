"""Several processes that train one model: ``torchrun -m fit3d_cli finetune ...``.

Each process computes its share of the effective batch; the gradients are summed. The first
process prepares, writes and tells; the others wait for it. All of them read the same workspace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store

from fit3d_cli.errors import DeviceError, Fit3dError

T = TypeVar("T")
_ANSWER = 3.0  # seconds in which those that are left say so
_BUG = 4


class PeerError(Fit3dError):
    """Another process of the training failed and says why itself, or is not there.

    Args:
        exit_code: With which this process is to end.
        ranks: Of the others; empty if unknown.
        what: The others did; it says why unless they "failed".
        told: Somebody else tells the user.
    """

    def __init__(
        self, exit_code: int, ranks: Sequence[int] = (), what: str = "failed", *, told: bool = True
    ) -> None:
        who = f"process {', '.join(map(str, ranks))}" if ranks else "another process"
        hint = "see its message above"
        if what != "failed":
            hint = "see its message or the system's log, then run the same command again"
        super().__init__(f"{who} of this training {what}", where="torchrun", hint=hint)
        self.exit_code, self.told = exit_code, told


@dataclass(frozen=True)
class Processes:
    """The processes of a training; the default is one alone.

    Attributes:
        rank: Number of this process.
        size: How many there are.
        device: Where its tensors are.
        store: Where they leave notes for each other.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this one prepares, writes and tells."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this process works on."""
        return items[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, float64 on the CPU."""
        total = values.detach().to(torch.float64)
        if self.size > 1:
            total = total.to(self.device, copy=True)
            with self.talk():
                dist.all_reduce(total)
        return total.cpu()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes.

        A parameter that has no gradient in any process keeps none, as in a single process.
        """
        if self.size == 1:
            return
        known = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        flat = torch.cat([
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters
        ] + [known])  # fmt: skip
        with self.talk():
            dist.all_reduce(flat)
        offset = 0
        for parameter, owners in zip(parameters, flat[-len(parameters) :].tolist(), strict=True):
            size = parameter.numel()
            if owners:
                parameter.grad = flat[offset : offset + size].view_as(parameter).clone()
            offset += size

    def together(self, work: Callable[[], T]) -> T:
        """Do something in every process and go on only if all of them could.

        Raises:
            PeerError: Another process failed; if several did, the first of them tells.
        """
        if self.size == 1:
            return work()
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failed = error
        codes = torch.zeros(self.size)
        codes[self.rank] = 0 if failed is None else getattr(failed, "exit_code", _BUG)
        codes = self.sum(codes)
        if not codes.any():
            return result
        first = int(codes.nonzero()[0])
        if failed is not None and first == self.rank:
            raise failed
        raise PeerError(int(codes[first]), [first]) from failed

    def lead(self, work: Callable[[], object]) -> None:
        """Let the first process do something while the others wait.

        Raises:
            PeerError: In the others, if it failed.
        """
        self.together(lambda: work() if self.leads else None)

    def where(self, holds: bool) -> list[int]:
        """In which processes something holds; all of them must ask."""
        flags = torch.zeros(self.size)
        flags[self.rank] = holds
        return [int(rank) for rank in self.sum(flags).nonzero()[:, 0]]

    @contextmanager
    def talk(self) -> Iterator[None]:
        """A connection that breaks means that another process is gone.

        Raises:
            PeerError: It is; of those that are left the first one tells.
        """
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except RuntimeError as error:
            gone = self._roll_call()
            first = min(set(range(self.size)) - set(gone))
            told = self.rank != first
            raise PeerError(DeviceError.exit_code, gone, "is gone", told=told) from error

    def _roll_call(self) -> list[int]:
        """The processes that do not answer: all that are left come here when one is gone."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        end = time.monotonic() + _ANSWER
        try:
            assert self.store is not None
            self.store.set(f"here/{self.rank}", "yes")
            while others and time.monotonic() < end:
                time.sleep(0.02)
                others = [rank for rank in others if not self.store.check([f"here/{rank}"])]
        except RuntimeError:
            # Kept by a process of torchrun's own, or else by the first of the training.
            return [0] if self.rank else others
        return others
