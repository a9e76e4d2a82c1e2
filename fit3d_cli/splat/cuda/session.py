"""One use of a CUDA device: the module, the current stream, memory and typed errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from fit3d_cli.splat.cuda import loader
from fit3d_cli.splat.cuda.faults import explained, gib, out_of_memory


class Session(NamedTuple):
    """What a call of a kernel needs beside its arrays.

    Attributes:
        module: ``fit3d_cli._cuda``.
        device: Where everything lies.
        stream: The current torch stream, as an integer.
    """

    module: ModuleType
    device: torch.device
    stream: int

    def call(self, name: str, *arguments: object) -> Any:
        """Run a function of the module on the stream.

        Tensors are handed over as capsules: a tenth of the time that the module would take to ask
        each of them, and a view has dozens.
        """
        return getattr(self.module, name)(*map(handed, arguments), self.stream)

    def empty(self, what: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``torch.empty`` on the device; ``what`` names the memory in an error.

        Raises:
            EnvironmentFault: The device is out of memory.
        """
        try:
            return torch.empty(shape, dtype=dtype, device=self.device)
        except torch.cuda.OutOfMemoryError as error:
            need = gib(math.prod(shape) * dtype.itemsize)
            raise out_of_memory(f"{what} needs {need}", self.device) from error

    def zeros(self, what: str, *shape: int) -> Tensor:
        """The same, filled with zeros."""
        return self.empty(what, *shape).zero_()

    def scratch(self, size: int) -> Tensor:
        """``[size]`` bytes that a kernel may use while it runs."""
        return self.empty("sorting", size, dtype=torch.uint8)


@contextmanager
def session(device: torch.device) -> Iterator[Session]:
    """Make a device current and turn the machine's failures inside into typed errors.

    Raises:
        DeviceError: The kernels cannot run there (see ``loader.require``).
        EnvironmentFault: The device is out of memory.
    """
    module = loader.require(device)
    real = device.type == "cuda"
    with torch.cuda.device(device) if real else nullcontext():
        stream = torch.cuda.current_stream(device).cuda_stream if real else 0
        try:
            yield Session(module, device, stream)
        except module.CudaError as error:
            raise explained(error, error.code, device) from error


def handed(argument: object) -> object:
    """An argument as the module takes it: tensors become DLPack capsules."""
    return to_dlpack(argument) if isinstance(argument, Tensor) else argument
