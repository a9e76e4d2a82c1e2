"""Memory for the kernels: large arrays on large pages, and storage that is used again."""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from fit3d_cli.errors import MemoryFault
from fit3d_cli.splat import kernel

_LARGE = 4 << 20  # bytes from which page faults show


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised CPU tensor, on large pages where it is large and the system has them.

    Raises:
        MemoryFault: There is not enough memory.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        tensor = torch.empty(shape, dtype=dtype, device="cpu")
    except (RuntimeError, MemoryError) as error:  # torch raises the former
        raise MemoryFault(
            f"one view needs {size / 2**30:.1f} GiB of memory more than there are",
            where=f"an array of {' x '.join(map(str, shape))}",
            hint="use fewer Gaussians, smaller pictures or fewer channels",
        ) from error
    if size >= _LARGE:
        kernel.load().huge_pages(tensor.view(-1).view(torch.uint8))
    return tensor


class Spare:
    """The storage of the last matrix that died, for the next one.

    A fitting step makes and drops a hundred megabytes; getting them from the system anew each
    time costs more in page faults than the arithmetic does.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, *row: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``[M, *row]`` with M >= rows, contents arbitrary; nobody else has it until ``give``.

        Raises:
            MemoryFault: There is not enough memory.
        """
        kept = self._kept.pop(name, None)
        if kept is not None and kept.shape[1:] == row and rows <= len(kept) <= 4 * rows:
            return kept
        return empty(rows + rows // 4, *row, dtype=dtype)  # views of one scene differ little

    def lend(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor whose memory comes back once nothing refers to it, views included.

        Raises:
            MemoryFault: There is not enough memory.
        """
        size = math.prod(shape)
        if size * 4 < _LARGE:
            return torch.empty(shape, device="cpu")
        kept = self._kept.pop(name, None)
        if kept is None or not size <= len(kept) <= 2 * size:
            kept = empty(size)
        # Torch's storage holds the array that it was made from, and nothing else does.
        array = kept.numpy()
        weakref.finalize(array, self.give, {name: kept}).atexit = False
        return torch.from_numpy(array)[:size].view(shape)

    def give(self, storage: dict[str, Tensor]) -> None:
        """Keep these; what was kept under their names is freed."""
        self._kept.update(storage)
