"""The blending weights of many views within a bounded memory.

Views are stacked into blocks of some thousand tokens: one transposed copy serves a whole block,
so that the adjoint reads and writes a Gaussian's row once per block instead of once per view.
Blocks beyond the budget lie in a temporary file without a name and are mapped while they are used;
reading one back costs a hundredth of computing it again.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, overload

import torch
from torch import Tensor

from fit3d_cli.allocator import settle
from fit3d_cli.errors import StorageError
from fit3d_cli.splat.weights import TokenWeights

_BLOCK_TOKENS = 8192  # a block's tokens by 32 channels are 1 MB: they stay in the cache


@dataclass(frozen=True)
class Block(TokenWeights):
    """Stacked views with a transposed copy that is already there.

    Attributes:
        by_gaussian: What ``transposed`` returns.
    """

    by_gaussian: tuple[Tensor, Tensor, Tensor] | None = None

    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """See ``TokenWeights``."""
        return super().transposed() if self.by_gaussian is None else self.by_gaussian


def stack(views: Sequence[TokenWeights]) -> TokenWeights:
    """One above the other: ``[sum of h, w]`` tokens.

    Args:
        views: Grids of one width over the same Gaussians.
    """
    first = views[0]
    offsets, base = [first.row_offsets], first.nnz
    for view in views[1:]:
        offsets.append(view.row_offsets[1:] + base)
        base += view.nnz
    return TokenWeights(
        sum(view.h for view in views), first.w, first.count, torch.cat(offsets),
        torch.cat([view.cols for view in views]), torch.cat([view.vals for view in views]),
        first.threads,
    )  # fmt: skip


class WeightStore(Sequence[TokenWeights]):
    """``A_v`` of many views.

    Args:
        budget: Bytes of blocks kept in memory. Beside them at most one block is being built and
            one is mapped.
        folder: Where the temporary file lies; None is the system's.
    """

    def __init__(self, *, budget: int, folder: Path | None = None) -> None:
        self._budget, self._folder = budget, folder
        self._kept = 0
        self._places: dict[int, tuple[int, int, int]] = {}  # block, first row of the grid, h
        self._members: list[list[int]] = []
        self._blocks: list[TokenWeights | _Spilled] = []
        self._open: list[TokenWeights] = []
        self._file: IO[bytes] | None = None

    def put(self, index: int, view: TokenWeights) -> None:
        """Add a view below those that are there.

        Args:
            index: Its number.
            view: Its weights.

        Raises:
            StorageError: There is no room for the temporary file.
        """
        if not self._open:
            self._members.append([])
        row = sum(member.h for member in self._open)
        self._places[index] = len(self._members) - 1, row, view.h
        self._members[-1].append(index)
        self._open.append(view)
        if (row + view.h) * view.w >= _BLOCK_TOKENS:
            self.cut()

    def cut(self) -> None:
        """Let the next view begin a block of its own; also to be called after the last one.

        Raises:
            StorageError: There is no room for the temporary file.
        """
        if not self._open:
            return
        block = stack(self._open)
        self._open = []
        size = 16 * block.nnz + 8 * (block.h * block.w + block.count)
        if self._kept + size <= self._budget or block.vals.device.type != "cpu":
            self._kept += size
            self._blocks.append(block)
        else:
            self._blocks.append(self._spill(block))

    @property
    def members(self) -> list[list[int]]:
        """The views of each block, in the order of their rows."""
        return self._members

    @property
    def spilled(self) -> int:
        """Blocks in the temporary file."""
        return sum(isinstance(block, _Spilled) for block in self._blocks)

    def block(self, index: int) -> TokenWeights:
        """One block; a spilled one is mapped for as long as the result lives."""
        found = self._blocks[index]
        return found.load() if isinstance(found, _Spilled) else found

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> TokenWeights: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenWeights]: ...
    def __getitem__(self, index: int | slice) -> TokenWeights | list[TokenWeights]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, row, h = self._places[index]
        block = self.block(number)
        offsets = block.row_offsets[row * block.w : (row + h) * block.w + 1]
        begin, end = int(offsets[0]), int(offsets[-1])
        return TokenWeights(
            h, block.w, block.count, offsets - begin, block.cols[begin:end],
            block.vals[begin:end], block.threads,
        )  # fmt: skip

    def __iter__(self) -> Iterator[TokenWeights]:
        return (self[i] for i in range(len(self)))

    def _spill(self, block: TokenWeights) -> _Spilled:
        settle()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            return _Spilled(block, self._file)
        except OSError as error:
            raise StorageError(
                f"no room for blending weights beyond lift.memory ({error.strerror})",
                where=self._folder or tempfile.gettempdir(),
                hint="make room there, or raise --set lift.memory",
            ) from error


class _Spilled:
    """A block in a file.

    Args:
        block: What to write, with its transposed copy.
        file: Open for reading and writing; grows by the block.
    """

    def __init__(self, block: TokenWeights, file: IO[bytes]) -> None:
        self._h, self._w, self._count = block.h, block.w, block.count
        self._threads, self._file = block.threads, file
        tensors = (block.row_offsets, block.cols, block.vals, *block.transposed())
        self._begin = file.seek(0, 2)
        self._layout = []
        for tensor in tensors:
            file.write(tensor.numpy().tobytes())
            self._layout.append((tensor.dtype, len(tensor)))
            file.write(bytes(-file.tell() % 8))
        file.write(bytes(-file.tell() % mmap.ALLOCATIONGRANULARITY))
        file.flush()
        self._size = file.tell() - self._begin

    def load(self) -> Block:
        """The block, mapped; its pages are dropped with it."""
        # A private mapping: never written, but torch wants memory that could be.
        mapped = mmap.mmap(
            self._file.fileno(), self._size, access=mmap.ACCESS_COPY, offset=self._begin
        )
        tensors, at = [], 0
        for dtype, length in self._layout:
            tensors.append(torch.frombuffer(mapped, dtype=dtype, count=length, offset=at))
            at += -(-length * dtype.itemsize // 8) * 8
        offsets, cols, vals, *by_gaussian = tensors
        return Block(
            self._h, self._w, self._count, offsets, cols, vals, self._threads,
            (by_gaussian[0], by_gaussian[1], by_gaussian[2]),
        )  # fmt: skip
