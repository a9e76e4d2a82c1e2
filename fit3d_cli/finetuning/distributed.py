"""Several processes that train one model: ``torchrun -m fit3d_cli finetune ...``.

Each process computes its share of the effective batch; the gradients are summed. The first
process prepares, writes and tells; the others wait for it. All of them read the same workspace.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fit3d_cli.errors import DeviceError, Fit3dError, SettingsError

T = TypeVar("T")
# The others wait while the first prepares many scenes. A process that dies is noticed at once: its
# connections break (gloo), and torchrun ends the others (nccl).
_PATIENCE = timedelta(days=7)
_ANSWER = 3.0  # seconds in which those that are left say so
_BUG = 4
_START = "start with torchrun --nproc-per-node N -m fit3d_cli finetune"


class PeerError(Fit3dError):
    """Another process of the training failed and says why itself, or is gone.

    Args:
        exit_code: With which this process is to end.
        ranks: Of the others; empty if unknown.
        gone: They do not answer any more.
        told: Somebody else tells the user.
    """

    def __init__(
        self, exit_code: int, ranks: Sequence[int] = (), *, gone: bool = False, told: bool = True
    ) -> None:
        who = f"process {', '.join(map(str, ranks))}" if ranks else "another process"
        hint = "see its message above"
        if gone:
            hint = "see its message or the system's log, then run the same command again"
        what = "is gone" if gone else "failed"
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
            with self._talk():
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
        with self._talk():
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
    def _talk(self) -> Iterator[None]:
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
            raise PeerError(DeviceError.exit_code, gone, gone=True, told=told) from error

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


def leads() -> bool:
    """Whether this process is the first one that ``torchrun`` started, or alone.

    Raises:
        SettingsError: The environment holds no numbers where torchrun sets some.
    """
    return _number("WORLD_SIZE", 1) <= 1 or _number("RANK", 0) == 0


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    try:
        return int(value or default)
    except ValueError as error:
        raise SettingsError(f"{name} is {value!r}, not a number", where="environment",
                            hint=f"unset it, or {_START}") from error  # fmt: skip


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; alone without it.

    Args:
        device: CPU (gloo), or CUDA (nccl): the process takes the GPU with its local number.

    Raises:
        SettingsError: ``WORLD_SIZE`` is set but not what else torchrun sets, or to no number.
        DeviceError: More processes than GPUs.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        yield Processes(device=device)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SettingsError(
            f"WORLD_SIZE is set but {missing[0]} is not",
            where="environment",
            hint=f"{_START}, or unset it",
        )
    if device.type == "cuda":
        local = _number("LOCAL_RANK", _number("RANK", 0))
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"process {local} finds {torch.cuda.device_count()} GPUs",
                where="torchrun",
                hint="give --nproc-per-node at most the number of GPUs",
            )
        torch.cuda.set_device(local)
    try:
        store, rank, size = next(rendezvous("env://"))
        backend = "nccl" if device.type == "cuda" else "gloo"
        group = PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=_PATIENCE)
    except RuntimeError as error:
        raise PeerError(DeviceError.exit_code, gone=True, told=False) from error
    try:
        yield Processes(rank, size, device, store)
    finally:
        dist.destroy_process_group()
