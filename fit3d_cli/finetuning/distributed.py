"""Several processes that train one model: ``torchrun -m fit3d_cli finetune ...``.

Each process computes its share of the effective batch; the gradients are summed. The first
process prepares, writes and tells; the others wait for it. All of them read the same workspace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fit3d_cli.errors import DeviceError, Fit3dError, SettingsError

T = TypeVar("T")
# The others wait while the first prepares many scenes. A process that dies is noticed at once: its
# connections break (gloo), and torchrun ends the others (nccl).
_PATIENCE = timedelta(days=7)
_BUG = 4
_START = "start with torchrun --nproc-per-node N -m fit3d_cli finetune"


class PeerError(Fit3dError):
    """Another process of the training failed and says why itself.

    Args:
        exit_code: With which that process ends.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this training failed", where="torchrun",
                         hint="see its message above")  # fmt: skip
        self.exit_code = exit_code


@dataclass(frozen=True)
class Processes:
    """The processes of a training; the default is one alone.

    Attributes:
        rank: Number of this process.
        size: How many there are.
        device: Where its tensors are.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

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
            with _talk():
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
        with _talk():
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
        raise PeerError(int(codes[first])) from failed

    def lead(self, work: Callable[[], object]) -> None:
        """Let the first process do something while the others wait.

        Raises:
            PeerError: In the others, if it failed.
        """
        self.together(lambda: work() if self.leads else None)


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
    with _talk():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def _talk() -> Iterator[None]:
    """A connection that breaks means that another process is gone."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except RuntimeError as error:
        raise PeerError(DeviceError.exit_code) from error
