"""Record3D's ``.r3d`` file: a zip of ``metadata``, ``rgbd/<n>.jpg`` and ``rgbd/<n>.depth``.

It becomes the folder that the ``record3d`` reader knows, photos and metadata byte for byte, names
kept. ``<n>.depth`` (float32 metres, row by row, compressed with LZFSE) becomes ``depth/<n>.png``
of 16 bit, millimetres, with the package ``pyliblzfse``; without it depth is left out, with a note.

Nothing else of the zip is looked at and no name of it is written, so that neither a path with
``..`` nor a link can lead outside the folder. What is unpacked is limited per file and in all.
"""

from __future__ import annotations

import importlib
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fit3d_cli.capture.files import MAX_TEXT_BYTES, RESTORE, read_json
from fit3d_cli.capture.motion import that_differ
from fit3d_cli.capture.photos import spread_over
from fit3d_cli.capture.record3d import POSES_NEEDED, Recording
from fit3d_cli.capture.sources.base import SOURCES, Source, SourceOptions
from fit3d_cli.capture.sources.facts import write_facts
from fit3d_cli.errors import CaptureError
from fit3d_cli.images import encode_png
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.storage import write_bytes

_METADATA = re.compile(r"(?:[^/]+/)?metadata(?:\.json)?")
_FRAME = re.compile(r"rgbd/(\d{1,9})\.(jpg|depth)", re.ASCII)
_MAX_FRAME_BYTES = 64 << 20
# Photos and depth are compressed already; JSON shrinks to a fifth.
_MAX_SWELLING = 30
_MAX_DEPTH_VALUES = 1 << 24
_MILLIMETRES = 65534
_NO_DEPTH = (
    "depth left out, it is compressed with LZFSE: pip install pyliblzfse, remove this folder and "
    "lift the .r3d file again"
)
# What zipfile raises for damaged, foreign and encrypted (RuntimeError) files.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
Unpack = Callable[[bytes], bytes]


def sniff(path: Path) -> bool:
    """Whether it is a zip file named ``.r3d``."""
    try:
        return path.suffix.lower() == ".r3d" and path.is_file()
    except OSError:
        return False


def make(path: Path, folder: Path, options: SourceOptions, on_event: OnEvent) -> None:
    """Unpack a recording.

    Args:
        path: The ``.r3d`` file.
        folder: An empty folder, to be filled.
        options: ``frames``: at most so many, evenly spread; with 0 those whose camera moved by a
            centimetre or turned by a degree since the last one taken.
        on_event: Told of every frame.

    Raises:
        CaptureError: Not such a file, damaged, without poses, or larger than can be right.
        StorageError: The folder cannot be written.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    with archive:
        _unpack(_Entries(archive, path), folder, options, on_event)


def _unreadable(path: Path, error: Exception) -> CaptureError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CaptureError(
        f"not a readable .r3d file ({reason})", where=path, hint="export it from Record3D again"
    )


class _Entries:
    """The members of the zip that matter, with bounded reading.

    Args:
        archive: The opened zip.
        path: Its place, for messages.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.path = path
        self._archive = archive
        infos = [info for info in archive.infolist() if not info.is_dir()]
        metadata = [info for info in infos if _METADATA.fullmatch(info.filename)]
        if len(metadata) != 1:
            raise CaptureError(
                f"{len(metadata)} metadata files", where=path, hint="export it from Record3D again"
            )
        self.metadata = metadata[0]
        # Some tools pack the folder itself, which puts its name in front.
        prefix = self.metadata.filename.rpartition("/")[0]
        start = f"{prefix}/" if prefix else ""
        self.photos: dict[int, zipfile.ZipInfo] = {}
        self.depths: dict[int, zipfile.ZipInfo] = {}
        for info in infos:
            inside = info.filename.startswith(start)
            match = _FRAME.fullmatch(info.filename[len(start) :]) if inside else None
            if match is None:
                continue
            kind = self.photos if match[2] == "jpg" else self.depths
            if int(match[1]) in kind:
                raise CaptureError(
                    f"{info.filename} is there twice", where=path, hint="export it again"
                )
            kind[int(match[1])] = info
        self._check_swelling([self.metadata, *self.photos.values(), *self.depths.values()])

    def _check_swelling(self, infos: list[zipfile.ZipInfo]) -> None:
        """A small file that claims to hold a huge one is an attack, not a recording."""
        stated = sum(info.file_size for info in infos)
        if stated > _MAX_SWELLING * self.path.stat().st_size + (1 << 20):
            raise CaptureError(
                f"claims to unpack to {stated} bytes",
                where=self.path,
                hint="this is no recording; export it from Record3D again",
            )

    def read(self, info: zipfile.ZipInfo, limit: int) -> bytes:
        """The content of a member, at most ``limit`` bytes, whatever its header says."""
        try:
            with self._archive.open(info) as member:
                data = member.read(limit + 1)
        except _DAMAGE as error:
            raise _unreadable(self.path, error) from error
        if len(data) > limit:
            raise CaptureError(
                f"{info.filename}: more than {limit} bytes", where=self.path, hint=RESTORE
            )
        return data


def _unpack(entries: _Entries, folder: Path, options: SourceOptions, on_event: OnEvent) -> None:
    write_bytes(folder / "metadata", entries.read(entries.metadata, MAX_TEXT_BYTES))
    try:
        fields = read_json(folder / "metadata")
        recording = Recording(fields)
        sizes = (fields.size("dw"), fields.size("dh")) if "dw" in fields else None
    except CaptureError as error:  # of the recording, not of the folder that is being made
        raise CaptureError(
            f"metadata: {error.what}", where=entries.path, hint=error.hint
        ) from error
    posed = [
        (number, pose)
        for number in sorted(entries.photos)
        if number < recording.count
        and bool(torch.isfinite(pose := recording.world_from_camera(number)).all())
    ]
    if len(posed) < 2:
        raise CaptureError(
            f"{len(posed)} frames with a photo and a pose", where=entries.path, hint=POSES_NEEDED
        )
    if options.frames:
        picked = spread_over(len(posed), max(options.frames, 2))
    else:
        picked = that_differ([pose for _, pose in posed])
    chosen = [posed[i][0] for i in picked]
    decompress = _decompressor()
    if decompress is None and entries.depths:
        write_facts(folder, [_NO_DEPTH], {})
    for done, number in enumerate(chosen):
        on_event(Progress(f"{entries.path.name}: unpacking", done, len(chosen)))
        photo = entries.read(entries.photos[number], _MAX_FRAME_BYTES)
        write_bytes(folder / "rgbd" / f"{number}.jpg", photo)
        if number not in entries.depths or decompress is None:
            continue
        packed = entries.read(entries.depths[number], _MAX_FRAME_BYTES)
        try:
            depth = depth_millimetres(packed, decompress, recording, sizes)
        except ValueError as error:
            name = entries.depths[number].filename
            raise CaptureError(f"{name}: {error}", where=entries.path, hint=RESTORE) from error
        write_bytes(folder / "depth" / f"{number}.png", encode_png(depth))
    on_event(Progress(f"{entries.path.name}: unpacking", len(chosen), len(chosen)))


def _decompressor() -> Unpack | None:
    """LZFSE's decompressor, None if ``pyliblzfse`` is not installed."""
    try:
        module = importlib.import_module("liblzfse")
    except ImportError:
        return None
    function: Unpack = module.decompress
    return function


def depth_millimetres(
    packed: bytes, decompress: Unpack, recording: Recording, size: tuple[int, int] | None
) -> NDArray[np.uint16]:
    """One depth map.

    Args:
        packed: LZFSE stream of float32 metres.
        decompress: LZFSE's decompressor.
        recording: Whose photos' aspect decides where ``size`` is None.
        size: Width and height, if the metadata have them.

    Returns:
        ``[H, W]`` uint16 millimetres, 0 = unknown.

    Raises:
        ValueError: Damaged, or not of that size.
    """
    count = unpacked_size(packed) // 4
    if size is None:
        wide = round(math.sqrt(count * recording.width / recording.height))
        size = (wide, count // wide if wide else 0)
    if not count or size[0] * size[1] != count or count > _MAX_DEPTH_VALUES:
        raise ValueError(f"{count} depth values are not {size[0]}x{size[1]}")
    try:
        data = decompress(packed)
    except Exception as error:  # its error class derives from Exception only
        raise ValueError("damaged LZFSE data") from error
    if len(data) != 4 * count:
        raise ValueError("damaged LZFSE data")
    metres = np.frombuffer(data, "<f4").reshape(size[1], size[0]).astype(np.float64)
    known = np.isfinite(metres) & (metres > 0) & (metres * 1000 <= _MILLIMETRES)
    millimetres: NDArray[np.uint16] = np.rint(np.where(known, metres, 0) * 1000).astype(np.uint16)
    return millimetres


def unpacked_size(stream: bytes) -> int:
    """How many bytes an LZFSE stream says that it holds, from the headers of its blocks.

    Asked before decompressing, which would fill the memory with whatever a stream repeats.

    Raises:
        ValueError: Not a whole LZFSE stream.
    """
    total = at = 0
    try:
        while stream[at : at + 4] != b"bvx$":
            magic, raw = struct.unpack_from("<4sI", stream, at)
            if magic == b"bvx-":  # stored
                size = 8 + raw
            elif magic == b"bvxn":  # LZVN
                size = 12 + struct.unpack_from("<I", stream, at + 8)[0]
            elif magic == b"bvx2":  # LZFSE: sizes of literals, of matches, of the header
                literals, matches, header = struct.unpack_from("<3Q", stream, at + 8)
                size = (
                    (header & 0xFFFFFFFF) + (literals >> 20 & 0xFFFFF) + (matches >> 40 & 0xFFFFF)
                )
            else:
                raise ValueError("not LZFSE data")
            if size < 8 or at + size > len(stream):
                raise ValueError("cut LZFSE data")
            total, at = total + raw, at + size
    except struct.error as error:
        raise ValueError("cut LZFSE data") from error
    return total


SOURCES.add(
    "record3d",
    Source(
        layout="a Record3D recording (.r3d)",
        sniff=sniff,
        make=make,
        files=lambda path: [path],
        options=("frames",),
    ),
)
