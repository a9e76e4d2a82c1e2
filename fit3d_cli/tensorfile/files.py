"""Reading and writing tensor files."""

from __future__ import annotations

import math
import os
import re
import stat
import struct
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError, MemoryFault
from fit3d_cli.storage import write_bytes
from fit3d_cli.tensorfile.header import (
    ARCHIVE_LIMITS,
    DTYPE_NAMES,
    DTYPES,
    MODEL_LIMITS,
    Header,
    Limits,
    MalformedHeader,
    TensorInfo,
    encode_header,
    parse_header,
)

_PIECE = 1 << 18  # numbers that are converted at a time
_COPY_HINT = "copy the file again or make it anew"


class TensorFile:
    """An open file with a parsed header; made by ``open_tensors``."""

    def __init__(self, path: Path, fd: int, header: Header) -> None:
        self.path = path
        self.header = header
        self._fd = fd

    def read(
        self,
        name: str,
        *,
        dtype: torch.dtype | None = None,
        watch: Callable[[memoryview], object] | None = None,
    ) -> Tensor:
        """Read one tensor into memory of its own.

        Args:
            name: Which.
            dtype: What to convert it to while it is read, so that it is never held twice; None
                keeps what is stored.
            watch: Called with the stored bytes, piece by piece: the ``update`` of a digest.

        Raises:
            ArchiveError: No such tensor, or the file cannot be read to its end.
            MemoryFault: It does not fit into memory.
        """
        info = self.header.tensors.get(name)
        if info is None:
            raise ArchiveError(f"holds no tensor {name}", where=self.path, hint=_COPY_HINT)
        stored = DTYPES[info.dtype]
        begin = self.header.data_start + info.begin
        count = info.nbytes // stored.itemsize
        result = self._room(count, dtype or stored)
        # Converted in pieces; as it is stored, in one.
        piece = count if result.dtype == stored else min(count, _PIECE)
        held = result if result.dtype == stored else self._room(piece, stored)
        for start in range(0, count, max(piece, 1)):
            part = held[: min(piece, count - start)]
            _read_into(self._fd, bytes_of(part), begin + start * stored.itemsize, self.path)
            if watch is not None:
                watch(bytes_of(part))
            if held is not result:
                result[start : start + len(part)] = part
        return result.reshape(info.shape)

    def _room(self, count: int, dtype: torch.dtype) -> Tensor:
        try:
            return torch.empty(count, dtype=dtype)
        except (RuntimeError, MemoryError) as error:  # torch has no error of its own for it
            size = count * dtype.itemsize / 2**30
            raise MemoryFault(
                f"a tensor of {size:.1f} GiB does not fit into memory",
                where=self.path,
                hint="use a machine with more memory",
            ) from error


class Headers:
    """Parsed headers of files that are replaced as a whole and never changed in place.

    Parsing grows with the tensors of a file, reading one of them does not. A file that was
    replaced has another inode or time and is parsed again. Safe in threads.

    Args:
        most: Tensors that the kept headers may describe together; those used last stay.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._headers: OrderedDict[tuple[object, ...], Header] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path, status: os.stat_result, parse: Callable[[], Header]) -> Header:
        """The header of a file, parsed only if it is not known."""
        key = (path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            header = self._headers.get(key)
            if header is None:
                header = self._headers[key] = parse()
                self._held += len(header.tensors)
            self._headers.move_to_end(key)
            while self._held > self._most and len(self._headers) > 1:
                self._held -= len(self._headers.popitem(last=False)[1].tensors)
        return header


def encode(
    tensors: Mapping[str, Tensor | np.ndarray[Any, Any]], metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """Serialise tensors; the same input gives the same bytes.

    Tensors are sorted by alignment (descending), then by name, so that each is naturally aligned
    without padding; the header is padded with spaces so that the data starts at a multiple of
    64 bytes.

    Args:
        tensors: Any device, any strides; names as ``MODEL_LIMITS`` allows.
        metadata: String table.

    Returns:
        The pieces of the file, for ``storage.write_bytes``. They share memory with contiguous
        CPU tensors: do not change those before the pieces are written.

    Raises:
        ValueError: A name or a dtype that the format does not allow.
    """
    held = {name: _as_cpu(name, tensor) for name, tensor in tensors.items()}
    header, infos = _laid_out(held, metadata)
    return [header, *(bytes_of(held[name]) for name in infos)]


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | np.ndarray[Any, Any]], metadata: Mapping[str, str]
) -> None:
    """Write tensors to a file, atomically and durably, with one in memory at a time.

    Args:
        path: The file.
        tensors: As ``encode``; one that is read when it is asked for is asked for twice.
        metadata: String table.

    Raises:
        ValueError: As ``encode``.
        StorageError: The file could not be written; a previous one is intact.
    """
    header, infos = _laid_out(tensors, metadata)

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        for name in infos:
            yield bytes_of(_as_cpu(name, tensors[name]))

    write_bytes(path, pieces(), size=len(header) + sum(info.nbytes for info in infos.values()))


def _laid_out(
    tensors: Mapping[str, Tensor | np.ndarray[Any, Any]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, TensorInfo]]:
    """The header of a file, and where each tensor lies in it, in the order of the data."""
    _require_little_endian()
    known = {}
    for name in tensors:
        tensor = _as_cpu(name, tensors[name])
        known[name] = tensor.dtype, tuple(tensor.shape)
    infos: dict[str, TensorInfo] = {}
    offset = 0
    for name in sorted(known, key=lambda name: (-known[name][0].itemsize, name)):
        dtype, shape = known[name]
        end = offset + math.prod(shape) * dtype.itemsize
        infos[name] = TensorInfo(DTYPE_NAMES[dtype], shape, offset, end)
        offset = end
    return encode_header(infos, metadata), infos


@contextmanager
def open_tensors(
    path: Path, *, limits: Limits = ARCHIVE_LIMITS, headers: Headers | None = None
) -> Iterator[TensorFile]:
    """Open a file and parse its header; tensors are read one by one.

    Args:
        path: The file.
        limits: What to accept.
        headers: Where the header is looked up before it is parsed; always used with the same
            limits.

    Raises:
        ArchiveError: Not a regular, whole, well-formed file within the limits.
    """
    _require_little_endian()
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ArchiveError("no such file", where=path, hint="check the path") from error
    except (OSError, ValueError) as error:
        # The path stands before it already.
        why = error.strerror if isinstance(error, OSError) else error
        raise ArchiveError(
            f"cannot be opened: {why}", where=path, hint="check the path and its mode"
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("is not a file", where=path, hint="name a file")

        def parse() -> Header:
            return _parse(path, fd, status.st_size, limits)

        yield TensorFile(path, fd, headers.of(path, status, parse) if headers else parse())
    finally:
        os.close(fd)


def read_header(path: Path, *, limits: Limits = ARCHIVE_LIMITS) -> Header:
    """The header alone: no tensor is read.

    Raises:
        ArchiveError: As ``open_tensors``.
    """
    with open_tensors(path, limits=limits) as file:
        return file.header


def read_tensors(
    path: Path, names: Iterable[str] | None = None, *, limits: Limits = ARCHIVE_LIMITS
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors into CPU memory.

    Args:
        path: The file.
        names: Which tensors, all by default.
        limits: What to accept: ``ARCHIVE_LIMITS`` or, for checkpoints, ``MODEL_LIMITS``.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        ArchiveError: A malformed file, or a name that it does not hold.
    """
    with open_tensors(path, limits=limits) as file:
        wanted = file.header.tensors if names is None else names
        return {name: file.read(name) for name in wanted}, dict(file.header.metadata)


def _parse(path: Path, fd: int, size: int, limits: Limits) -> Header:
    if size < 8:
        raise _damaged(path, f"truncated at {size} bytes" if size else "an empty file")
    prefix = bytearray(8)
    _read_into(fd, memoryview(prefix), 0, path)
    (length,) = struct.unpack("<Q", prefix)
    if length > limits.header:
        raise ArchiveError(
            f"not a safetensors file (header of {length} bytes, at most {limits.header})",
            where=path,
            hint="check that this is the right file",
        )
    start = 8 + length
    if start > size:
        raise _damaged(path, f"truncated at {size} of more than {start} bytes")
    raw = bytearray(length)
    _read_into(fd, memoryview(raw), 8, path)
    try:
        infos, metadata = parse_header(bytes(raw), limits)
    except MalformedHeader as error:
        raise _damaged(path, f"malformed header: {error}") from error
    total = start + max((info.end for info in infos.values()), default=0)
    if size < total:
        raise _damaged(path, f"truncated at {size} of {total} bytes")
    if size > total:
        raise _damaged(path, f"{size - total} bytes after the last tensor")
    return Header(infos, metadata, start, size, bytes(prefix + raw))


def _as_cpu(name: str, tensor: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if not re.fullmatch(MODEL_LIMITS.name, name) or ".." in name or name == "__metadata__":
        raise ValueError(f"bad tensor name {name!r}")
    if isinstance(tensor, np.ndarray):
        tensor = torch.from_numpy(np.array(tensor, order="C", copy=True))
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype not in DTYPE_NAMES:
        raise ValueError(f"tensor {name} has dtype {tensor.dtype}, which the format lacks")
    return tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _read_into(fd: int, buffer: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(fd, [buffer[done:]], offset + done)
        except OSError as error:
            raise ArchiveError(
                f"cannot be read: {error.strerror}", where=path, hint="check the disk"
            ) from error
        if not count:
            raise _damaged(path, "became shorter while it was read")
        done += count


def _require_little_endian() -> None:
    if sys.byteorder != "little":
        raise ArchiveError(
            "tensor files hold little-endian numbers, this machine is big-endian",
            hint="use a little-endian machine",
        )


def _damaged(path: Path, what: str) -> ArchiveError:
    return ArchiveError(what, where=path, hint=_COPY_HINT)
