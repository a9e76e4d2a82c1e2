"""How the processes of a training find each other, from what ``torchrun`` puts in the environment.

Under torchrun a process that is lost takes the others along. Without it, nothing tells those that
wait for one that they have never been connected to: they meet in a store first, and only then
connect, which takes milliseconds, and from then on a loss breaks a connection.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from fit3d_cli.errors import DeviceError, SettingsError
from fit3d_cli.finetuning.distributed import PeerError, Processes

T = TypeVar("T")
# The others wait while the first prepares many scenes. A process that dies is noticed at once: its
# connections break (gloo), and torchrun ends the others (nccl).
_PATIENCE = timedelta(days=7)
_MEETING = 300.0  # seconds between the start of the first and that of the last
_CONNECTING = 15.0  # seconds; it takes milliseconds
_LOOK = 0.02  # seconds between looks
_START = "start with torchrun --nproc-per-node N -m fit3d_cli finetune"


def leads() -> bool:
    """Whether this process is the first one that ``torchrun`` started, or alone.

    Raises:
        SettingsError: The environment holds no numbers where torchrun sets some.
    """
    return _number("WORLD_SIZE", 1) <= 1 or _number("RANK", 0) == 0


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; alone without it.

    Args:
        device: CPU (gloo), or CUDA (nccl): the process takes the GPU with its local number.

    Raises:
        SettingsError: ``WORLD_SIZE`` is set but not what else torchrun sets, or to no number; or
            ``RANK`` is not below it.
        DeviceError: More processes than GPUs, or the port is taken.
        PeerError: Another process did not come, or is gone.
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
    rank = _number("RANK", 0)
    if not 0 <= rank < size:
        raise SettingsError(f"RANK is {rank}, WORLD_SIZE {size}", where="environment", hint=_START)
    if device.type == "cuda":
        local = _number("LOCAL_RANK", rank)
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"process {local} finds {torch.cuda.device_count()} GPUs",
                where="torchrun",
                hint="give --nproc-per-node at most the number of GPUs",
            )
        torch.cuda.set_device(local)
    processes = Processes(rank, size, device, _met(rank, size))
    with processes.talk():
        _connect(processes)
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def _connect(processes: Processes) -> None:
    """Let each process find every other one, all of which are there.

    Raises:
        RuntimeError: One is gone.
    """
    backend = "nccl" if processes.device.type == "cuda" else "gloo"

    def connect() -> None:
        # A client of its own: while gloo waits for a key nobody else may ask through it.
        dist.init_process_group(
            backend, store=PrefixStore("group", _store(keeps=False)), rank=processes.rank,
            world_size=processes.size, timeout=_PATIENCE,
        )  # fmt: skip

    # gloo would wait here as long as for a sum, or, told otherwise, often without end all the same.
    _soon(connect)


def _soon(work: Callable[[], T]) -> T:
    """What ``work`` returns; it is torch's, deaf to signals and without a limit that holds.

    Raises:
        RuntimeError: It failed, or takes too long, and goes on until the process ends.
    """
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="fit3d-joining")
    thread.start()
    thread.join(_CONNECTING)
    if failed:
        raise failed[0]
    if not done:
        raise RuntimeError(f"no connection after {_CONNECTING:g} s")
    return done[0]


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    try:
        return int(value or default)
    except ValueError as error:
        raise SettingsError(f"{name} is {value!r}, not a number", where="environment",
                            hint=f"unset it, or {_START}") from error  # fmt: skip


def _met(rank: int, size: int) -> Store:
    """The store in which every process has written that it is there.

    Raises:
        DeviceError: The port is taken.
        PeerError: Not all of them came in time, or the one that keeps the store is gone.
    """
    end = time.monotonic() + _MEETING
    store = _opened(rank, end)
    keys = {other: f"met/{other}" for other in range(size)}
    try:
        store.set(keys[rank], "yes")
        while not store.check(list(keys.values())):
            if time.monotonic() > end:
                raise _late([other for other in keys if not store.check([keys[other]])])
            time.sleep(_LOOK)
    except RuntimeError as error:
        raise PeerError(DeviceError.exit_code, [0], "is gone", told=False) from error
    return store


def _opened(rank: int, end: float) -> Store:
    """The store of the first process, or of torchrun where that keeps one."""
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeps = rank == 0 and not theirs
    if not (keeps or theirs):
        # torch would wait for it as well, but deaf to Ctrl-C and with pages of its own words.
        while not _listens():
            if time.monotonic() > end:
                raise _late([0])
            time.sleep(_LOOK)
    try:
        return _soon(lambda: _store(keeps))
    except (RuntimeError, ValueError) as error:
        if not keeps:
            raise PeerError(DeviceError.exit_code, [0], "is gone", told=False) from error
        host, port = _address()
        raise DeviceError(
            f"cannot listen on port {port} of {host}", where="MASTER_PORT",
            hint="give torchrun another --master-port",
        ) from error  # fmt: skip


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)


def _store(keeps: bool) -> Store:
    host, port = _address()
    store = TCPStore(host, port, None, keeps, timeout=_PATIENCE, wait_for_workers=False)
    return PrefixStore(f"fit3d/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _listens() -> bool:
    try:
        socket.create_connection(_address(), timeout=1.0).close()
    except (OSError, OverflowError):
        return False
    return True


def _late(ranks: list[int]) -> PeerError:
    minutes = _MEETING / 60
    what = f"did not come within {minutes:g} minutes"
    return PeerError(DeviceError.exit_code, ranks, what, told=False)
