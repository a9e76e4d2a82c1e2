"""Niantic's ``.spz``: a tenth to a fifth of a ``.ply``. Versions 1 to 4 are read, 3 is written.

Version 3 is the one that most programs open today: those that know 4 read 3 as well (the
reference library, SuperSplat, three.js), and several (Spark, Babylon.js) know nothing newer.

After a header come all means, opacities, colours, log scales, rotations and view-dependent
colours: up to version 3 in one gzip stream, in version 4 each in a zstd stream of its own. The
axes are right, up, back where a ``.ply`` has right, down, front: y and z change their sign, both
when reading and when writing, so that a ``.ply`` that goes through an ``.spz`` stays where it was.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats.base import (
    BLOCK,
    FORMATS,
    Contents,
    Format,
    empty_gaussians,
    usable,
)
from fit3d_cli.formats.rotations import drop_largest, smallest_three
from fit3d_cli.formats.spz_streams import MAGIC, open_streams
from fit3d_cli.geometry.activations import logs_to_scales, scales_to_logs
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.storage import write_bytes

_VERSION = 3
_MOST, _LEAST_BITS = 2**23 - 1, 4
_COLOUR = 0.15  # of the degree-0 coefficient, per unit of the byte's range
_SQRT_HALF = 0.5**0.5
_ANTIALIASED = 1
# Which axes each basis function changes its sign with, from its polynomial: y, z, x, xy, yz, ...
_ODD = ("", "y", "z", "x", "xy", "yz", "", "xz", "", "y", "xyz", "y", "z", "x", "z", "x")


def read(file: BinaryIO, path: Path) -> Contents:
    """Read an ``.spz``; of harmonics of degree 4, degrees 0 to 3 are kept.

    Raises:
        ArchiveError: Damaged, or of an unknown version.
    """
    layout, streams = open_streams(file, path)
    kept = min(layout.sh_degree, 3)
    gaussians = empty_gaussians(layout.count, (kept + 1) ** 2)
    signs = _axis_signs(layout.axes)

    def fill(name: str, take: Callable[[slice, np.ndarray[Any, Any]], None]) -> None:
        width = layout.widths[name]
        for start in range(0, layout.count, BLOCK):
            rows = slice(start, min(start + BLOCK, layout.count))
            raw = streams.read(name, (rows.stop - rows.start) * width)
            take(rows, np.frombuffer(raw, dtype=np.uint8).reshape(-1, width))
        if layout.count:
            streams.finish(name)

    def means(rows: slice, raw: np.ndarray[Any, Any]) -> None:
        values = _half(raw) if layout.version == 1 else _fixed(raw, layout.fractional_bits)
        gaussians.means[rows] = values * signs.float()

    def opacities(rows: slice, raw: np.ndarray[Any, Any]) -> None:
        gaussians.opacities[rows] = _floats(raw)[:, 0] / 255

    def colours(rows: slice, raw: np.ndarray[Any, Any]) -> None:
        gaussians.sh[rows, 0] = (_floats(raw) / 255 - 0.5) / _COLOUR

    def scales(rows: slice, raw: np.ndarray[Any, Any]) -> None:
        gaussians.scales[rows] = logs_to_scales(_floats(raw) / 16 - 10)

    def rotations(rows: slice, raw: np.ndarray[Any, Any]) -> None:
        xyzw = _three_bytes(raw) if layout.version < 3 else _four_bytes(raw)
        # An axis turns as a pseudo-vector: a mirror changes the sign of what it does not flip.
        axis = xyzw[:, :3] * (signs * signs.prod()).float()
        gaussians.quats[rows] = torch.cat([xyzw[:, 3:], axis], dim=1)

    def harmonics(rows: slice, raw: np.ndarray[Any, Any]) -> None:
        values = (_floats(raw) - 128) / 128
        count = (kept + 1) ** 2 - 1
        coefficients = values.reshape(len(values), -1, 3)[:, :count]
        gaussians.sh[rows, 1:] = coefficients * _harmonic_signs(signs)[1 : count + 1, None]

    fill("means", means)
    fill("opacities", opacities)
    fill("colours", colours)
    fill("scales", scales)
    fill("rotations", rotations)
    if layout.sh_degree:
        fill("harmonics", harmonics)
    elif layout.version < 4:
        streams.finish("harmonics")  # the end of the one stream, whatever is in it
    facts = {
        "version": layout.version,
        "stored_sh_degree": layout.sh_degree,
        "fractional_bits": layout.fractional_bits,
        "antialiased": bool(layout.flags & _ANTIALIASED),
        "axes": layout.axes,
    }
    return Contents(gaussians, usable(gaussians), facts)


def write(path: Path, gaussians: Gaussians) -> None:
    """Write an ``.spz`` of version 3.

    Means keep as many fractional bits as their extent leaves of 24; opacities, colours, log
    scales (a step of 1/16) and harmonics (clamped to [-1, 1)) have 8 bits, rotations 32.

    Raises:
        ArchiveError: A mean is too far from the origin for 24 bits.
        StorageError: The file could not be written; a previous one is intact.
    """
    own = gaussians.to("cpu")
    degree, signs = own.sh_degree, _axis_signs("RUB")
    bits = _fractional_bits(own.means, path)
    fixed = (own.means.detach().double() * signs * 2.0**bits).round().to(torch.int64).numpy()
    words = (fixed & 0xFFFFFF).astype("<u4").view(np.uint8).reshape(-1, 4)
    sh = own.sh.detach().double() * _harmonic_signs(signs)[: own.sh.shape[1], None]
    pieces = [
        struct.pack("<4sIIBBBB", MAGIC, _VERSION, len(own), degree, bits, 0, 0),
        np.ascontiguousarray(words[:, :3]).tobytes(),
        _bytes(own.opacities.detach().double() * 255),
        _bytes(sh[:, 0] * (_COLOUR * 255) + 127.5),
        _bytes((scales_to_logs(own.scales.detach()).double() + 10) * 16),
        _rotation_words(own.quats.detach(), signs),
        _bytes(sh[:, 1:] * 128 + 128),
    ]
    # No time in the header: the same Gaussians make the same bytes.
    write_bytes(path, gzip.compress(b"".join(pieces), compresslevel=9, mtime=0))


def _fractional_bits(means: Tensor, path: Path) -> int:
    farthest = float(means.detach().abs().max()) if len(means) else 0.0
    for bits in range(23, _LEAST_BITS - 1, -1):
        if round(farthest * 2**bits) <= _MOST:
            return bits
    raise ArchiveError(
        f"a Gaussian {farthest:.4g} units from the origin does not fit into 24 bits",
        where=path,
        hint="write a .ply",
    )


def _axis_signs(axes: str) -> Tensor:
    """``[3]`` float64: which axes to flip between a file's axes and right, down, front."""
    return torch.tensor(
        [1.0 if a == b else -1.0 for a, b in zip(axes, "RDF", strict=True)]
    ).double()


def _harmonic_signs(signs: Tensor) -> Tensor:
    """``[16]`` float64: the sign of each basis function when axes flip."""
    flip = dict(zip("xyz", signs.tolist(), strict=True))
    return torch.tensor([float(np.prod([flip[axis] for axis in odd])) for odd in _ODD]).double()


def _floats(raw: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(raw.astype(np.float32))


def _half(raw: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(raw.view("<f2").astype(np.float32))


def _fixed(raw: np.ndarray[Any, Any], bits: int) -> Tensor:
    """24-bit two's complement little-endian fixed-point numbers."""
    parts = raw.reshape(len(raw), 3, 3).astype(np.int32)
    values = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    values -= (values & 0x800000) << 1
    return torch.from_numpy(values.astype(np.float64) / 2.0**bits).float()


def _three_bytes(raw: np.ndarray[Any, Any]) -> Tensor:
    """``[M, 4]`` xyzw from xyz over [-1, 1]; w >= 0 is left out."""
    xyz = _floats(raw) / 127.5 - 1
    w = (1 - xyz.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    return torch.nn.functional.normalize(torch.cat([xyz, w], dim=1), dim=1)


def _four_bytes(raw: np.ndarray[Any, Any]) -> Tensor:
    """2 bits for the largest of xyzw, then for each of the others a sign and 9 bits."""
    words = torch.from_numpy(np.ascontiguousarray(raw).view("<u4")[:, 0].astype(np.int64))
    fields = torch.stack([(words >> shift) & 1023 for shift in (20, 10, 0)], dim=1)
    size = (fields & 511).double() * (_SQRT_HALF / 511)
    return smallest_three(words >> 30, torch.where(fields >= 512, -size, size))


def _rotation_words(quats: Tensor, signs: Tensor) -> bytes:
    xyzw = torch.cat([quats[:, 1:].double() * (signs * signs.prod()), quats[:, :1].double()], 1)
    largest, others = drop_largest(xyzw)
    size = (others.abs() * (511 / _SQRT_HALF)).round().clamp(0, 511).to(torch.int64)
    fields = size | (others < 0).to(torch.int64) << 9
    words = largest << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return words.numpy().astype("<u4").tobytes()


def _bytes(values: Tensor) -> bytes:
    return values.round().clamp(0, 255).to(torch.uint8).contiguous().numpy().tobytes()


def _sniff(head: bytes, path: Path) -> bool:
    if not head.startswith(b"\x1f\x8b"):
        return head.startswith(MAGIC)
    if path.suffix.lower() == ".spz":
        return True
    with suppress(zlib.error):
        return zlib.decompressobj(wbits=31).decompress(head, 4) == MAGIC
    return False


FORMATS.add("spz", Format("Niantic .spz", ".spz", _sniff, read, write))
