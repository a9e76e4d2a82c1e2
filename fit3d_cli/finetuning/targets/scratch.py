"""Large arrays that are filled once and read a few times: on disk, mapped into memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from fit3d_cli.errors import StorageError


class Scratch:
    """Zeroed tensors in a temporary file without a name; gone with the process.

    Their pages are the system's to write out, so an array may be larger than the memory. The
    room is reserved when an array is made: a full disk is an error then, not a crash later.

    Args:
        folder: Where the file lies; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise self._refused(error) from error
        self._end = 0

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()  # arrays that are still mapped keep their pages

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A new array, all zero.

        Raises:
            StorageError: There is no room for it.
        """
        count = math.prod(shape)
        if not count:
            return torch.zeros(shape, dtype=dtype)
        size = count * dtype.itemsize
        size += -size % mmap.ALLOCATIONGRANULARITY
        try:
            os.posix_fallocate(self._file.fileno(), self._end, size)
            mapped = mmap.mmap(self._file.fileno(), size, offset=self._end)
        except OSError as error:
            raise self._refused(error) from error
        self._end += size
        return torch.frombuffer(mapped, dtype=dtype, count=count).reshape(shape)

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor from any device.

        Raises:
            StorageError: There is no room for it.
        """
        return self.zeros(*tensor.shape, dtype=tensor.dtype).copy_(tensor)

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"no room for temporary arrays ({error.strerror})",
            where=self._folder,
            hint="make room there, or use another --workspace",
        )
