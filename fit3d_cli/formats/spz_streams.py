"""The containers of ``.spz``: one gzip stream (versions 1 to 3) or zstd streams (version 4).

Whatever a file announces is compared with its size before memory is taken, and no more is
unpacked than was announced.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats.base import damaged

MAGIC = b"NGSP"
_LEGACY = struct.Struct("<4sIIBBBB")
_HEADER = struct.Struct("<4sIIBBBBI12s")
_READ_BYTES = 1 << 16
# Real files shrink to a half; a Gaussian repeated for ever is what a bomb is made of.
_MOST_RATIO, _ALWAYS = 100, 1 << 20
# Of a zstd stream, if what it holds is not larger: memory that is taken before a byte is unpacked.
_WINDOW = 8 << 20
_MOST_TRAILER = 1 << 20
_COORDINATES = 0xADBE0003
_EXTENDED = 2
# Right/left, up/down, back/front in the order of the reference library's numbers; 0 is unsaid.
_AXES = ("RUB", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF")


@dataclass(frozen=True)
class Layout:
    """What the header of a file says.

    Attributes:
        version: 1 to 4.
        count: Gaussians.
        sh_degree: 0 to 4.
        fractional_bits: Of the means, fixed-point.
        flags: Bits of the header.
        axes: Directions of x, y and z: Right or Left, Up or Down, Back or Front.
    """

    version: int
    count: int
    sh_degree: int
    fractional_bits: int
    flags: int
    axes: str = "RUB"

    @property
    def widths(self) -> Mapping[str, int]:
        """Bytes per Gaussian of each attribute, in the order of the file."""
        return {
            "means": 6 if self.version == 1 else 9,
            "opacities": 1,
            "colours": 3,
            "scales": 3,
            "rotations": 3 if self.version < 3 else 4,
            "harmonics": 3 * ((self.sh_degree + 1) ** 2 - 1),
        }


class Streams(Protocol):
    """Attributes, read in the order of ``Layout.widths``."""

    def read(self, name: str, size: int) -> bytes:
        """The next bytes of an attribute, exactly as many."""
        ...

    def finish(self, name: str) -> None:
        """Check what stands behind an attribute that was read to its end."""
        ...


def open_streams(file: BinaryIO, path: Path) -> tuple[Layout, Streams]:
    """Parse the header of an open ``.spz``.

    Raises:
        ArchiveError: Damaged, of an unknown version, or unpacking to absurdly much.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(4)
    file.seek(0)
    return _zstd(file, size, path) if start == MAGIC else _gzip(file, size, path)


def _gzip(file: BinaryIO, size: int, path: Path) -> tuple[Layout, Streams]:
    stream = _GzipStream(file, path)
    magic, version, count, degree, bits, flags, _ = _LEGACY.unpack(
        stream.read("header", _LEGACY.size)
    )
    if magic != MAGIC or not 1 <= version <= 3:
        what = "gzip data that is no .spz" if magic != MAGIC else f".spz version {version}"
        raise ArchiveError(what, where=path, hint="versions 1 to 4 are known: convert the file")
    layout = Layout(version, count, degree, bits, flags)
    _check(layout, size, path)
    return layout, stream


def _zstd(file: BinaryIO, size: int, path: Path) -> tuple[Layout, Streams]:
    raw = file.read(_HEADER.size)
    if len(raw) < _HEADER.size:
        raise damaged(path, f"truncated at {size} bytes")
    _, version, count, degree, bits, flags, streams, table, _ = _HEADER.unpack(raw)
    if version != 4:
        raise ArchiveError(
            f".spz version {version}",
            where=path,
            hint="versions 1 to 4 are known: convert the file",
        )
    if not _HEADER.size <= table <= min(size - 16 * streams, _MOST_TRAILER):
        raise damaged(path, f"a table of streams at byte {table} of {size}")
    extensions = file.read(table - _HEADER.size) if flags & _EXTENDED else b""
    layout = Layout(version, count, degree, bits, flags, _axes(extensions, path))
    _check(layout, size, path)
    wanted = {name: width * count for name, width in layout.widths.items() if width * count}
    file.seek(table)
    sizes = list(struct.iter_unpack("<QQ", file.read(16 * streams)))
    announced = [unpacked for _, unpacked in sizes]
    if announced != list(wanted.values()):
        raise damaged(path, f"streams of {announced} bytes, expected {list(wanted.values())}")
    begin, places = table + 16 * streams, {}
    for name, (packed, unpacked) in zip(wanted, sizes, strict=True):
        places[name] = (begin, packed, unpacked)
        begin += packed
    if begin > size:
        raise damaged(path, f"truncated at {size} of {begin} bytes")
    return layout, _ZstdStreams(file, path, places)


def _check(layout: Layout, size: int, path: Path) -> None:
    if layout.sh_degree > 4:
        raise damaged(path, f"harmonics of degree {layout.sh_degree}")
    if layout.version > 1 and layout.fractional_bits > 23:
        raise damaged(path, f"{layout.fractional_bits} fractional bits of 24")
    total = layout.count * sum(layout.widths.values())
    if total > max(_ALWAYS, _MOST_RATIO * size):
        raise damaged(path, f"{size} bytes announce {layout.count} Gaussians of {total} bytes")


def _axes(extensions: bytes, path: Path) -> str:
    """Axes that an extension record names; the format's own without one."""
    at = 0
    while at + 8 <= len(extensions):
        kind, length = struct.unpack_from("<II", extensions, at)
        if at + 8 + length > len(extensions):
            break
        if kind == _COORDINATES and length == 4:
            (number,) = struct.unpack_from("<I", extensions, at + 8)
            if number >= len(_AXES):
                raise ArchiveError(
                    f"stored with turned axes (coordinate system {number})",
                    where=path,
                    hint="convert it to the format's own axes, RUB",
                )
            return _AXES[number]
        at += 8 + length
    if at != len(extensions):
        raise damaged(path, "an extension is longer than its place")
    return "RUB"


class _GzipStream:
    """All attributes behind each other in one gzip stream."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._inflate = zlib.decompressobj(wbits=31)

    def read(self, name: str, size: int) -> bytes:
        """The next bytes of the stream."""
        pieces, missing = [], size
        while missing:
            packed = self._inflate.unconsumed_tail or self._file.read(_READ_BYTES)
            try:
                piece = self._inflate.decompress(packed, missing)
            except zlib.error as error:
                raise damaged(self._path, f"damaged gzip data in the {name}") from error
            if not piece and (self._inflate.eof or not packed):
                raise damaged(self._path, f"ends in the {name}, {missing} bytes early")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def finish(self, name: str) -> None:
        """Read on to the checksum: behind the harmonics there may be small extensions."""
        if name != "harmonics":
            return
        left = _MOST_TRAILER
        while left > 0 and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(_READ_BYTES)
            try:
                left -= len(self._inflate.decompress(packed, left))
            except zlib.error as error:
                raise damaged(self._path, "damaged gzip data: its checksum is wrong") from error
            if not packed and not self._inflate.eof:
                raise damaged(self._path, "gzip data without an end")


class _ZstdStreams:
    """A zstd stream per attribute, unpacked when it is read."""

    def __init__(
        self, file: BinaryIO, path: Path, places: Mapping[str, tuple[int, int, int]]
    ) -> None:
        self._file, self._path, self._places = file, path, places
        self._name, self._announced = "", 0
        self._reader: zstandard.ZstdDecompressionReader | None = None

    def read(self, name: str, size: int) -> bytes:
        """The next bytes of an attribute."""
        if name != self._name or self._reader is None:
            begin, packed, unpacked = self._places[name]
            self._file.seek(begin)
            source = self._file.read(packed)
            unpacker = zstandard.ZstdDecompressor(max_window_size=max(_WINDOW, 2 * unpacked))
            self._name, self._reader = name, unpacker.stream_reader(source)
            self._announced = 0
        pieces, missing = [], size
        while missing:
            try:
                piece = self._reader.read(missing)
            except zstandard.ZstdError as error:
                raise damaged(self._path, f"damaged zstd data in the {name}") from error
            if not piece:
                raise damaged(self._path, f"ends in the {name}, {missing} bytes early")
            pieces.append(piece)
            missing -= len(piece)
        self._announced += size
        return b"".join(pieces)

    def finish(self, name: str) -> None:
        """Refuse a stream that goes on; at the end of a frame its checksum is compared."""
        try:
            more = self._reader.read(1) if self._reader is not None else b""
        except zstandard.ZstdError as error:
            raise damaged(self._path, f"damaged zstd data in the {name}") from error
        if more:
            raise damaged(self._path, f"more than the {self._announced} announced bytes of {name}")
