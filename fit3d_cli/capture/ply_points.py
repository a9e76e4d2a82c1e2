"""Points of a PLY file (Turk 1994): x y z and, where there are any, red green blue."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from fit3d_cli.capture.base import SparsePoints
from fit3d_cli.capture.files import RESTORE, read_bytes
from fit3d_cli.errors import CaptureError

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_END = b"end_header"


def read_ply_points(path: Path) -> SparsePoints | None:
    """The vertices of a point cloud; points without colour are mid-grey.

    Returns:
        The finite points, or None if there is none.

    Raises:
        CaptureError: Missing, or not such a PLY file.
    """
    data = read_bytes(path, 4 << 30)

    def fail(what: str) -> CaptureError:
        return CaptureError(what, where=path, hint=RESTORE)

    end = data.find(_END, 0, 1 << 16)
    if not data.startswith(b"ply") or end < 0:
        raise fail("not a PLY file")
    newline = data.find(b"\n", end)
    body = data[newline + 1 :] if newline >= 0 else b""
    order, count, fields = "", -1, []
    in_vertex = False
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _FORMATS:
            order = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isdigit():
            in_vertex = words[1] == "vertex"
            if in_vertex:
                count = int(words[2])
            elif count < 0:
                raise fail(f"element {words[1]} stands before the vertices")
        elif words[0] == "property" and not in_vertex:
            continue
        elif words[0] == "property" and len(words) == 3 and words[1] in _TYPES:
            fields.append((words[2], _TYPES[words[1]]))
        else:
            raise fail(f"header line {line[:60]!r} is not understood")
    names = [name for name, _ in fields]
    if not order or count < 0 or not {"x", "y", "z"} <= set(names) or len(set(names)) < len(names):
        raise fail("no vertices with x, y and z")
    dtype = np.dtype([(name, _FORMATS[order] + kind) for name, kind in fields])
    if order == "ascii":
        vertices = _parse_ascii(body, dtype, count)
    else:
        enough = len(body) >= count * dtype.itemsize
        vertices = np.frombuffer(body, dtype, count) if enough else None
    if vertices is None:
        raise fail(f"fewer than the {count} vertices that it announces")
    xyz = np.stack([vertices[key].astype(np.float64) for key in "xyz"], axis=1)
    keys = ("red", "green", "blue")
    if set(keys) <= set(names):
        # Colours stored as real numbers run from 0 to 1.
        real = np.issubdtype(vertices["red"].dtype, np.floating)
        rgb = np.stack([vertices[key].astype(np.float64) for key in keys], axis=1)
        rgb = np.clip(np.nan_to_num(rgb * (255 if real else 1)), 0, 255).round()
    else:
        rgb = np.full_like(xyz, 128)
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.any():
        return None
    return SparsePoints(
        torch.from_numpy(xyz[finite]), torch.from_numpy(rgb[finite].astype(np.uint8))
    )


def _parse_ascii(body: bytes, dtype: np.dtype[np.void], count: int) -> np.ndarray | None:  # type: ignore[type-arg]
    text = io.StringIO(body.decode("ascii", "replace"))
    lines = [line for _, line in zip(range(count), text, strict=False)]
    if len(lines) < count:
        return None
    vertices = np.empty(count, dtype)
    try:
        with np.errstate(over="ignore"):  # what a float32 cannot hold is left out with the infinite
            for i, line in enumerate(lines):
                vertices[i] = tuple(line.split())
    except (ValueError, OverflowError):
        return None
    return vertices
