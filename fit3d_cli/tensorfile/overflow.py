"""Tensors that are made once and read a few times: in memory within a budget, then in a file.

The file has no name and is gone with the process. What lies in it is read with ``pread`` into
memory that is let go of after use, so that a thousand of them need no more memory than one.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast, overload

import torch
from torch import Tensor

from fit3d_cli.allocator import settle
from fit3d_cli.errors import StorageError

_HINT = "make room there, or use another --workspace"
_T = TypeVar("_T", bound="Tensor | None", covariant=True)


class Overflow:
    """Where tensors are put away.

    Args:
        folder: Where the file lies, made with the first tensor that needs it; None is the
            system's place for temporary files.
        budget: Bytes that are kept in memory instead; the first to come are.
        hint: What to do where there is no room.
    """

    def __init__(self, folder: Path | None = None, *, budget: int = 0, hint: str = _HINT) -> None:
        self._folder, self._left, self._hint = folder, budget, hint
        self._file: _File | None = None

    @property
    def spilled(self) -> int:
        """Bytes in the file."""
        return self._file.end if self._file is not None else 0

    def keep(self, tensor: Tensor) -> Kept:
        """Put a tensor away; one of another device than the CPU stays there.

        Raises:
            StorageError: There is no room for it.
        """
        size = tensor.numel() * tensor.element_size()
        if size <= self._left or tensor.device.type != "cpu":
            self._left -= size
            return Kept(tensor, None, 0)
        if self._file is None:
            self._file = _File(self._folder, self._hint)
        return Kept(tensor, self._file, self._file.reserve(size))


class Kept:
    """A tensor that was put away.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
    """

    __slots__ = ("_begin", "_file", "_held", "dtype", "shape")

    def __init__(self, tensor: Tensor, file: _File | None, begin: int) -> None:
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype
        self._file, self._begin = file, begin
        self._held = tensor if file is None else None
        if file is not None:
            file.write(_bytes(tensor.contiguous()), begin)

    def get(self) -> Tensor:
        """The tensor; what is done to it stays only if it was kept in memory, so do nothing."""
        if self._file is None:
            assert self._held is not None
            return self._held
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self._file.read(_bytes(tensor), self._begin)
        settle()
        return tensor

    def set(self, tensor: Tensor) -> None:
        """Put another tensor of the same shape and dtype in its place.

        Raises:
            ValueError: It is of another.
            StorageError: The disk refused.
        """
        if tuple(tensor.shape) != self.shape or tensor.dtype != self.dtype:
            raise ValueError(f"{tensor.dtype} {tuple(tensor.shape)} for {self.dtype} {self.shape}")
        if self._file is None:
            self._held = tensor
        else:
            self._file.write(_bytes(tensor.detach().cpu().contiguous()), self._begin)


class KeptList(Sequence[_T]):
    """Tensors that were put away, by number; None stays None.

    Args:
        kept: In order.
    """

    def __init__(self, kept: Sequence[Kept | None]) -> None:
        self._kept = list(kept)

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> KeptList[_T]: ...
    def __getitem__(self, index: int | slice) -> _T | KeptList[_T]:
        if isinstance(index, slice):
            return KeptList(self._kept[index])
        kept = self._kept[index]
        return cast(_T, None if kept is None else kept.get())


class KeptTable(Mapping[str, Tensor]):
    """Tensors by name, one in memory at a time: what ``write_sealed`` takes.

    Args:
        kept: By name.
    """

    def __init__(self, kept: Mapping[str, Kept | Tensor]) -> None:
        self._kept = dict(kept)

    def __getitem__(self, name: str) -> Tensor:
        kept = self._kept[name]
        return kept.get() if isinstance(kept, Kept) else kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class _File:
    """The temporary file; closed when nobody may ask for its content any more."""

    def __init__(self, folder: Path | None, hint: str) -> None:
        self.end = 0
        self._where, self._hint = folder or Path(tempfile.gettempdir()), hint
        try:
            self._where.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self._where, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._refused(error) from error
        self._fd = file.fileno()
        weakref.finalize(self, file.close)

    def reserve(self, size: int) -> int:
        """Where the next ``size`` bytes go; a full disk is an error now."""
        begin = self.end
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, begin, size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise self._refused(error) from error
        self.end += size
        settle()
        return begin

    def write(self, data: memoryview, at: int) -> None:
        self._all(data, at, os.pwrite)

    def read(self, data: memoryview, at: int) -> None:
        self._all(data, at, lambda fd, part, place: os.preadv(fd, [part], place))

    def _all(self, data: memoryview, at: int, move: Callable[[int, memoryview, int], int]) -> None:
        done = 0
        try:
            while done < len(data):
                count = move(self._fd, data[done:], at + done)
                if not count:
                    raise OSError("it became shorter")
                done += count
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"no temporary file ({error.strerror or error})", where=self._where, hint=self._hint
        )


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
