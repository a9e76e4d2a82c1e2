"""The compiled CUDA module: is it there, and does it run on a device?"""

from __future__ import annotations

from types import ModuleType

import torch

from fit3d_cli.errors import DeviceError
from fit3d_cli.splat.cuda.faults import REBUILD, explained

_sound: set[tuple[int, int | None]] = set()  # examined already: it does not change in a process


def load() -> ModuleType:
    """The compiled module.

    Raises:
        DeviceError: It was not built, or cannot be loaded.
    """
    try:
        from fit3d_cli import _cuda
    except ImportError as error:
        raise DeviceError(
            f"this installation has no CUDA kernels ({error})",
            where="--device cuda",
            hint=REBUILD,
        ) from error
    return _cuda


def require(device: torch.device) -> ModuleType:
    """The compiled module, known to run on a device.

    Args:
        device: A CUDA device; the CPU for the emulated build of the tests.

    Raises:
        DeviceError: No module, no driver or one that is too old, a device that is not there, or
            one that this build has no code for.
    """
    module = load()
    expected = "cpu" if module.emulated else "cuda"
    if device.type != expected:
        raise DeviceError(
            f"tensors on {device} for kernels that run on {expected}",
            where="--device",
            hint="move the tensors, or let their device choose the backend",
        )
    key = (id(module), device.index)
    if key not in _sound:
        _examine(module, device)
        _sound.add(key)
    return module


def _examine(module: ModuleType, device: torch.device) -> None:
    index = device.index or 0
    try:
        count = module.device_count()
        info = module.device_info(index) if index < count else None
    except module.CudaError as error:
        raise explained(error, error.code, device) from error
    if info is None:
        raise DeviceError(
            f"device {index} of {count} is not there"
            if count
            else "no driver answers, or it is older than the CUDA of the kernels",
            where="--device cuda",
            hint="look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu",
        )
    if not info.runs:
        raise DeviceError(
            f"{info.name} (sm_{info.major}{info.minor}, driver {_version(info.driver)}) runs no "
            f"kernels built for {module.architectures} with CUDA {_version(info.runtime)}",
            where="--device cuda",
            hint="build with -C cmake.define.FIT3D_CUDA_ARCHITECTURES="
            f"{info.major}{info.minor}-real, renew the driver, or use --device cpu",
        )


def _version(number: int) -> str:
    """CUDA writes 12.4 as 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
