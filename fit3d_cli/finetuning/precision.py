"""Number formats of the forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fit3d_cli.errors import DeviceError
from fit3d_cli.settings import FinetuneSettings


def precision(settings: FinetuneSettings, device: torch.device) -> torch.dtype:
    """Type of the forward pass: float32, or bfloat16 (autocast; the parameters stay float32).

    Raises:
        DeviceError: bfloat16 is asked of a GPU that has none.
    """
    wanted = settings.precision
    if wanted == "float32" or (wanted == "auto" and device.type != "cuda"):
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        if wanted == "auto":
            return torch.float32
        raise DeviceError("this GPU has no bfloat16", where="finetune.precision",
                          hint="use float32")  # fmt: skip
    return torch.bfloat16


@contextlib.contextmanager
def autocast(kind: torch.dtype, device: torch.device) -> Iterator[None]:
    """Run a forward pass in ``kind``; does nothing for float32."""
    if kind == torch.float32:
        yield
        return
    with torch.autocast(device.type, dtype=kind):
        yield
