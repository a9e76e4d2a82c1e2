"""Before long work: is there the memory and the disk that it will need?

The stages know their formulas; here need meets have. Refused is only what clearly cannot fit. An
estimate is an estimate: ``FIT3D_PREFLIGHT=off`` lets people who know better try.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli.errors import MemoryFault, StorageError, size_text

SWITCH = "FIT3D_PREFLIGHT"
_TIGHT = 0.8  # of what is free: worth a warning


@dataclass(frozen=True)
class Needs:
    """What a piece of work takes beyond what the process holds already.

    Attributes:
        memory: Bytes of the machine's memory, at the peak.
        device: Bytes of the GPU's memory, at the peak; 0 without one.
        disk: Bytes on the workspace's disk, at the peak.
    """

    memory: int = 0
    device: int = 0
    disk: int = 0


def require(needs: Needs, *, where: str | Path, disk: Path, less: str, gpu: str = "") -> None:
    """Refuse what cannot fit; say so where it will be tight.

    Args:
        needs: Estimates.
        where: What is to be worked on; errors about memory name it.
        disk: What is going to be written, on the disk in question; need not be there yet.
        less: What would need less, as an imperative, e.g. ``lower --dim``.
        gpu: Name of the CUDA device, or empty.

    Raises:
        MemoryFault: There is less memory.
        StorageError: There is less room on the disk.
    """
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return
    free = free_disk(disk)
    if free is not None and needs.disk > free:
        raise StorageError(
            f"needs about {size_text(needs.disk)} of disk, {size_text(free)} are free",
            where=disk,
            hint=f"free some space, write elsewhere or {less} ({SWITCH}=off tries anyway)",
        )
    for need, have, kind in (
        (needs.memory, _memory() if needs.memory else None, "memory"),
        (needs.device, _gpu_memory(gpu) if gpu else None, f"memory of {gpu}"),
    ):
        if have is None:
            continue
        said = f"needs about {size_text(need)} of {kind}, {size_text(have)} are free"
        if need > have:
            raise MemoryFault(
                said, where=where,
                hint=f"{less}, or close other programs ({SWITCH}=off tries anyway)",
            )  # fmt: skip
        if need > _TIGHT * have:
            logging.getLogger(__name__).warning("%s: %s: it will be tight", where, said)


def free_disk(path: Path) -> int | None:
    """Bytes that are free where ``path`` is or will be; None where nobody says."""
    whole = path.absolute()
    there = next(parent for parent in (whole, *whole.parents) if parent.exists())
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return None


def _memory() -> int | None:
    from fit3d_cli.device import available_memory  # torch stays out of --help

    return available_memory()


def _gpu_memory(name: str) -> int | None:
    import torch

    device = torch.device(name)
    free = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
