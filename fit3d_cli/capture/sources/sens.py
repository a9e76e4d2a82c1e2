"""ScanNet's ``.sens`` container, unpacked as ScanNet's own reader exports it.

Little endian (SensReader/README.md of the ScanNet repository): version 4 (u32), the sensor's name
(u64 length, bytes), four 4x4 float32 matrices (intrinsics and extrinsics of colour, then of depth),
colour and depth compression (i32 each), width and height of colour and of depth (u32 each), depth
units per metre (f32), number of frames (u64). Per frame: camera to world (16 f32, infinite where
tracking was lost), two timestamps, the sizes of both pictures (u64 each), then their bytes. What
follows the frames (inertial data) is not used.

Frames are copied one by one: a file of many gigabytes takes the memory of one frame. Every size is
held against the file's before anything is read.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.capture.motion import that_differ
from fit3d_cli.capture.photos import spread_over
from fit3d_cli.capture.sources.base import SOURCES, Source, SourceOptions
from fit3d_cli.capture.sources.facts import write_facts
from fit3d_cli.errors import CaptureError, ImageError
from fit3d_cli.images import MAX_PIXELS, encode_png, image_size
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.storage import write_bytes, write_text

_COLOR_KINDS = {0: "raw", 1: "png", 2: "jpeg"}
_DEPTH_KINDS = {0: "raw_ushort", 1: "zlib_ushort"}
_FRAME = struct.Struct("<16f4Q")
_TAIL = struct.Struct("<2i4IfQ")
_MATRICES = struct.Struct("<64f")
_MAX_NAME = 1 << 16
_MAX_PICTURE = 256 << 20  # bytes of one compressed picture
AGAIN = "download the file again: it is damaged or cut off"


@dataclass(frozen=True)
class Header:
    """What a ``.sens`` file says of itself.

    Attributes:
        matrices: ``[4, 4, 4]`` float64: intrinsics and extrinsics of colour, then of depth.
        color_kind: ``raw``, ``png`` or ``jpeg``.
        depth_kind: ``raw_ushort`` or ``zlib_ushort``.
        color_size: Width and height of the photos.
        depth_size: Width and height of the depth maps.
        depth_scale: Depth units per metre.
        frames: Number of frames.
    """

    matrices: Tensor
    color_kind: str
    depth_kind: str
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_scale: float
    frames: int


@dataclass(frozen=True)
class _Frame:
    pose: Tensor
    color_at: int
    color_bytes: int
    depth_bytes: int


def sniff(path: Path) -> bool:
    """Whether it is a ``.sens`` file, or a folder with exactly one."""
    return len(_containers(path)) == 1


def make(path: Path, folder: Path, options: SourceOptions, on_event: OnEvent) -> None:
    """Unpack into ``color``, ``depth``, ``pose`` and ``intrinsic``.

    Frames without a finite pose are left out. Of the others at most ``options.frames``, evenly
    spread, are taken; with 0 those whose camera moved by a centimetre or turned by a degree.

    Raises:
        CaptureError: The file is damaged, or of a kind that is not supported.
        StorageError: A file cannot be written.
    """
    source = _containers(path)[0]
    try:
        with source.open("rb") as file:
            _unpack(file, source, folder, options.frames, on_event)
    except OSError as error:
        raise CaptureError(
            f"cannot be read ({error.strerror})", where=source, hint="check the file"
        ) from error


def _unpack(
    file: IO[bytes], source: Path, folder: Path, most: int, on_event: OnEvent
) -> None:  # fmt: skip
    total = os.fstat(file.fileno()).st_size
    header = read_header(file, source, total)
    posed = [
        (number, frame)
        for number, frame in enumerate(_frames(file, source, header, total))
        if bool(torch.isfinite(frame.pose).all())
    ]
    if len(posed) < 2:
        raise CaptureError(
            f"{len(posed)} of {header.frames} frames have a pose",
            where=source,
            hint="a capture needs at least 2; take another scan",
        )
    if most:
        kept = spread_over(len(posed), max(most, 2))
    else:
        kept = that_differ([frame.pose for _, frame in posed])
    lost = header.frames - len(posed)
    notes = [f"{lost} of {header.frames} frames without a pose left out"] if lost else []
    if len(kept) < len(posed):
        why = "evenly spread" if most else "those whose camera moved"
        notes.append(f"{len(kept)} of {len(posed)} frames taken, {why}")
    posed = [posed[i] for i in kept]
    kinds = ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth")
    for kind, matrix in zip(kinds, header.matrices, strict=True):
        write_text(folder / "intrinsic" / f"{kind}.txt", _text(matrix))
    for done, (number, frame) in enumerate(posed):
        on_event(Progress(f"{source.stem}: unpacking", done, len(posed)))
        _write_color(file, source, folder / "color", number, frame, header)
        _write_depth(file, source, folder / "depth" / f"{number}.png", number, frame, header)
        write_text(folder / "pose" / f"{number}.txt", _text(frame.pose))
    on_event(Progress(f"{source.stem}: unpacking", len(posed), len(posed)))
    figures = {"frames": header.frames, "without_pose": lost, "photos": len(posed)}
    write_facts(folder, notes, figures)


def read_header(file: IO[bytes], source: Path, total: int) -> Header:
    """Read and check the header; the file then stands at the first frame.

    Args:
        file: Opened at its start.
        source: Its name, for messages.
        total: Its size in bytes.

    Raises:
        CaptureError: It is no such header, or promises more than the file holds.
    """
    version, name_bytes = struct.unpack("<IQ", _exactly(file, 12, source, "header"))
    if version != 4:
        raise CaptureError(
            f"version {version} of the .sens format, only 4 is known",
            where=source,
            hint="check that this is a ScanNet container",
        )
    if name_bytes > min(_MAX_NAME, total):
        raise CaptureError(f"sensor name of {name_bytes} bytes", where=source, hint=AGAIN)
    _exactly(file, name_bytes, source, "header")
    matrices = _MATRICES.unpack(_exactly(file, _MATRICES.size, source, "header"))
    color, depth, cw, ch, dw, dh, scale, frames = _TAIL.unpack(
        _exactly(file, _TAIL.size, source, "header")
    )
    if color not in _COLOR_KINDS or depth not in _DEPTH_KINDS:
        raise CaptureError(
            f"colour compression {color}, depth compression {depth}",
            where=source,
            hint="only raw, png or jpeg colour and raw or zlib depth can be read",
        )
    for what, width, height in (("photos", cw, ch), ("depth maps", dw, dh)):
        if not 0 < width * height <= MAX_PIXELS:
            raise CaptureError(f"{what} of {width}x{height}", where=source, hint=AGAIN)
    if not 0 < scale < float("inf"):
        raise CaptureError(f"{scale:g} depth units per metre", where=source, hint=AGAIN)
    made = torch.tensor(matrices, dtype=torch.float64).reshape(4, 4, 4)
    focal = made[[0, 0, 2, 2], [0, 1, 0, 1], [0, 1, 0, 1]]
    if not bool(torch.isfinite(made).all()) or not bool((focal > 0).all()):
        raise CaptureError("camera matrices without sense", where=source, hint=AGAIN)
    left = total - file.tell()
    if frames > left // _FRAME.size:
        raise CaptureError(
            f"{frames} frames promised, {left} bytes are left for them", where=source, hint=AGAIN
        )
    return Header(
        made, _COLOR_KINDS[color], _DEPTH_KINDS[depth], (cw, ch), (dw, dh), scale, frames,
    )  # fmt: skip


def _frames(file: IO[bytes], source: Path, header: Header, total: int) -> Iterator[_Frame]:
    """What stands where; pictures are passed over."""
    for number in range(header.frames):
        label = f"frame {number}"
        *pose, _, _, color_bytes, depth_bytes = _FRAME.unpack(
            _exactly(file, _FRAME.size, source, label)
        )
        at = file.tell()
        if max(color_bytes, depth_bytes) > _MAX_PICTURE or color_bytes + depth_bytes > total - at:
            raise CaptureError(
                f"{label}: {color_bytes} and {depth_bytes} bytes of pictures, {total - at} left",
                where=source,
                hint=AGAIN,
            )
        matrix = torch.tensor(pose, dtype=torch.float64).reshape(4, 4)
        yield _Frame(matrix, at, color_bytes, depth_bytes)
        file.seek(at + color_bytes + depth_bytes)


def _write_color(
    file: IO[bytes], source: Path, folder: Path, number: int, frame: _Frame, header: Header
) -> None:
    """The photo: as it stands in the file, or as PNG where it is not compressed."""
    file.seek(frame.color_at)
    data = _exactly(file, frame.color_bytes, source, f"frame {number}")
    width, height = header.color_size
    if header.color_kind == "raw":
        pixels = _pixels(data, np.uint8, (height, width, 3), source, f"frame {number}: colour")
        data = encode_png(pixels)
    place = folder / f"{number}.{'jpg' if header.color_kind == 'jpeg' else 'png'}"
    write_bytes(place, data)
    _check_picture(place, header.color_size, source, f"frame {number}: photo")


def _write_depth(
    file: IO[bytes], source: Path, place: Path, number: int, frame: _Frame, header: Header
) -> None:
    """Depth in millimetres."""
    file.seek(frame.color_at + frame.color_bytes)
    data = _exactly(file, frame.depth_bytes, source, f"frame {number}")
    width, height = header.depth_size
    label = f"frame {number}: depth"
    if header.depth_kind == "zlib_ushort":
        data = _inflate(data, 2 * width * height, source, label)
    values = _pixels(data, np.uint16, (height, width), source, label)
    if header.depth_scale != 1000:
        scaled = np.round(values.astype(np.float64) * (1000 / header.depth_scale))
        values = np.where(scaled < 65535, scaled, 0).astype(np.uint16)
    write_bytes(place, encode_png(values))


def _inflate(data: bytes, size: int, source: Path, label: str) -> bytes:
    """Exactly ``size`` bytes out of a zlib stream, however much it would like to become."""
    decoder = zlib.decompressobj()
    try:
        made = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise CaptureError(f"{label}: not zlib ({error})", where=source, hint=AGAIN) from error
    if len(made) != size or not decoder.eof:
        more = "more" if len(made) > size else str(len(made))
        raise CaptureError(
            f"{label}: {more} bytes unpacked, expected {size}", where=source, hint=AGAIN
        )
    return made


def _pixels(
    data: bytes, kind: type[np.generic], shape: tuple[int, ...], source: Path, label: str
) -> NDArray[Any]:
    """Little-endian numbers as an array of exactly this shape."""
    dtype = np.dtype(kind).newbyteorder("<")
    size = int(np.prod(shape)) * dtype.itemsize
    if len(data) != size:
        raise CaptureError(f"{label}: {len(data)} bytes, expected {size}", where=source, hint=AGAIN)
    return np.frombuffer(data, dtype).reshape(shape).astype(kind)


def _check_picture(place: Path, size: tuple[int, int], source: Path, label: str) -> None:
    try:
        found = image_size(place)
    except ImageError as error:
        raise CaptureError(f"{label}: {error.what}", where=source, hint=AGAIN) from error
    if found != size:
        raise CaptureError(
            f"{label}: {found[0]}x{found[1]}, the header says {size[0]}x{size[1]}",
            where=source,
            hint=AGAIN,
        )


def _exactly(file: IO[bytes], size: int, source: Path, label: str) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise CaptureError(f"{label}: the file ends in it", where=source, hint=AGAIN)
    return data


def _text(matrix: Tensor) -> str:
    """Rows of a matrix; nine digits keep a float32 as it is."""
    rows = (" ".join(f"{value:.9g}" for value in row) for row in matrix.tolist())
    return "\n".join(rows) + "\n"


def _containers(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path] if path.suffix.lower() == ".sens" else []
        return sorted(f for f in path.iterdir() if f.suffix.lower() == ".sens" and f.is_file())
    except OSError:
        return []


def describe(path: Path) -> str:
    """How much is in it, from the header; damage is told when it is unpacked."""
    source = _containers(path)[0]
    try:
        with source.open("rb") as file:
            header = read_header(file, source, os.fstat(file.fileno()).st_size)
    except (CaptureError, OSError):
        return "a .sens file (ScanNet)"
    width, height = header.color_size
    return f"a .sens file (ScanNet), {header.frames} frames of {width}x{height}"


SOURCES.add(
    "sens",
    Source(
        "a .sens file (ScanNet), or a folder with one", sniff, make, _containers, ("frames",),
        describe,
    ),
)  # fmt: skip
