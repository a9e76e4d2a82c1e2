"""What a failed CUDA call means to the user."""

from __future__ import annotations

import torch

from fit3d_cli.errors import DeviceError, MemoryFault

REBUILD = "install with pip install . -C cmake.define.FIT3D_CUDA=ON, or use --device cpu"

# cudaError_t values that are faults of the machine; every other one is a bug of ours.
_MEMORY = 2
_DRIVER = 35
_NO_DEVICE = 100
_NO_CODE = (98, 209, 222)  # invalid device function, no kernel image, unsupported PTX version


def explained(error: Exception, code: int, device: torch.device) -> Exception:
    """The typed error behind a failed call, or ``error`` itself if it is a bug of ours.

    Args:
        error: As the module raised it.
        code: Its ``cudaError_t``.
        device: Where it happened.
    """
    if code == _MEMORY:
        return out_of_memory("a kernel found no memory", device)
    if code == _DRIVER:
        return DeviceError(
            "NVIDIA's driver is older than the CUDA that the kernels were built with",
            where="--device cuda",
            hint="renew the driver, or build with a CUDA toolkit that it supports",
        )
    if code == _NO_DEVICE or code in _NO_CODE:
        return DeviceError(f"the kernels cannot run ({error})", where="--device cuda", hint=REBUILD)
    return error


def out_of_memory(what: str, device: torch.device) -> MemoryFault:
    """The error for memory that the device does not have."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What torch has reserved and does not use is there for us too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        what = f"{what}, {gib(free)} of {gib(total)} are free"
    return MemoryFault(
        what,
        where=str(device),
        hint="use fewer Gaussians or smaller pictures, close other programs, or use --device cpu",
    )


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB"
