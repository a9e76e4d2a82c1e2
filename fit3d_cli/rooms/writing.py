"""A rendered room as an RGB-D capture on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fit3d_cli.errors import SettingsError, StorageError
from fit3d_cli.images import encode_png
from fit3d_cli.rooms.layout import generate_room
from fit3d_cli.rooms.paths import room_intrinsics, room_path
from fit3d_cli.rooms.pieces import CLASSES
from fit3d_cli.rooms.primitives import Array
from fit3d_cli.rooms.render import render_room
from fit3d_cli.storage import sha256_bytes, sha256_file, write_bytes

# Raised whenever the same seed would give other pictures, so that old captures are remade.
GENERATOR = 1
MANIFEST = "room.json"


def write_room(directory: Path, seed: int, *, views: int, width: int, height: int) -> None:
    """Render a room and write it in the RGB-D capture layout.

    Per view ``frame-NNNNNN.color.png`` (8-bit RGB), ``.depth.png`` (16-bit millimetres along
    the optical axis), ``.pose.txt`` (4 x 4 camera to world, OpenCV axes, metres) and
    ``.label.png`` (8-bit index into ``CLASSES``); once ``intrinsics.txt`` (3 x 3, pixels),
    ``classes.txt`` (one name per line) and, last, ``room.json`` with the sha256 of all. A
    directory whose files match that list is left alone; the same arguments give the same bytes.

    Args:
        directory: Where to write; made when missing.
        seed: Seed of the room.
        views: Number of views, at least 2.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.

    Raises:
        SettingsError: Fewer than 2 views, or an empty picture.
        StorageError: A file cannot be written.
    """
    if views < 2 or width < 1 or height < 1:
        raise SettingsError(
            f"a room needs at least 2 views of at least 1x1 pixel, not {views} of {width}x{height}",
            where=directory,
            hint="ask for more views or larger pictures",
        )
    wanted = {
        "generator": GENERATOR, "seed": seed, "views": views, "width": width, "height": height,
    }  # fmt: skip
    if _complete(directory, wanted):
        return
    sums: dict[str, str] = {}

    def put(name: str, data: bytes) -> None:
        write_bytes(directory / name, data)
        sums[name] = sha256_bytes(data)

    room = generate_room(seed)
    K = room_intrinsics(width, height)
    put("intrinsics.txt", _matrix_text(K))
    put("classes.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    for index, pose in enumerate(room_path(room, views)):
        frame = render_room(room, pose, K, width, height)
        stem = f"frame-{index:06d}"
        millimetres = np.rint(frame.depth.astype(np.float64) * 1000).astype(np.uint16)
        put(f"{stem}.color.png", encode_png(frame.image))
        put(f"{stem}.depth.png", encode_png(millimetres))
        put(f"{stem}.label.png", encode_png(frame.labels))
        put(f"{stem}.pose.txt", _matrix_text(pose))
    manifest = json.dumps({**wanted, "files": sums}, indent=1, sort_keys=True) + "\n"
    write_bytes(directory / MANIFEST, manifest.encode())


def _complete(directory: Path, wanted: dict[str, int]) -> bool:
    """Whether the directory holds exactly what these arguments would write."""
    try:
        manifest: Any = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        sums = manifest.pop("files")
        if manifest != wanted or set(sums) != _names(wanted["views"]):
            return False
        return all(sha256_file(directory / name) == digest for name, digest in sums.items())
    except (OSError, StorageError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _names(views: int) -> set[str]:
    """The files of a complete capture beside the manifest."""
    parts = ("color.png", "depth.png", "label.png", "pose.txt")
    frames = {f"frame-{index:06d}.{part}" for index in range(views) for part in parts}
    return frames | {"intrinsics.txt", "classes.txt"}


def _matrix_text(matrix: Array) -> bytes:
    """One row per line; enough digits to read the same float64 back."""
    rows = (" ".join(repr(float(value)) for value in row) for row in matrix)
    return "".join(f"{row}\n" for row in rows).encode()
