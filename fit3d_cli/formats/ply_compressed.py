"""SuperSplat's compressed ``.ply``: 16 bytes per Gaussian, relative to chunks of 256.

The layout is that of PlayCanvas' "Compressing Gaussian Splats": ``chunk`` holds the ranges of
means, log scales and (since SuperSplat 2) colours; ``vertex`` four words: ``packed_position`` and
``packed_scale`` of 11, 10 and 11 bits, ``packed_rotation`` of 2 bits for the largest component of
wxyz and 3 x 10 bits for the others over [-1, 1] / sqrt(2), ``packed_color`` of 4 x 8 bits for the
colour and the opacity. ``sh`` holds bytes over [-4, 4] in the order of ``f_rest``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.formats.base import FORMATS, Contents, Format, damaged, empty_gaussians, usable
from fit3d_cli.formats.ply import check_rest, coefficients, rest_names, stack
from fit3d_cli.formats.ply_header import (
    Columns,
    Element,
    Header,
    blocks,
    parse_header,
    require_rows,
)
from fit3d_cli.formats.rotations import smallest_three
from fit3d_cli.geometry.activations import logs_to_scales
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh

_CHUNK = 256
_AXES = ("x", "y", "z")
_WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_SH_SPAN = 8.0


def read(file: BinaryIO, path: Path) -> Contents:
    """Read a compressed ``.ply``.

    Raises:
        ArchiveError: Damaged, or not such a file.
    """
    header = parse_header(file, path)
    vertex, chunk = header.element("vertex"), header.element("chunk")
    if vertex is None or chunk is None or not set(_WORDS) <= set(vertex.names):
        raise damaged(path, "a compressed .ply without chunks or packed vertices")
    if header.encoding == "ascii" or {kind for _, kind in vertex.properties} != {"u4"}:
        raise damaged(path, "a compressed .ply whose vertices are not binary uint")
    if chunk.count != -(-vertex.count // _CHUNK):
        raise damaged(path, f"{chunk.count} chunks for {vertex.count} vertices of {_CHUNK} each")
    sh = header.element("sh")
    rest = _rest(sh, vertex, path)
    for element in (chunk, vertex, *([sh] if sh else [])):
        require_rows(file, header, element, path)
    ranges = _ranges(file, header, chunk, path)
    gaussians = empty_gaussians(vertex.count, len(rest) // 3 + 1)
    for rows, columns in blocks(file, header, vertex, path):
        _unpack(gaussians, rows, columns, ranges)
    if sh is not None and rest:
        for rows, columns in blocks(file, header, sh, path):
            gaussians.sh[rows, 1:] = coefficients(_bytes_to_sh(stack(columns, rest)))
    facts = {"encoding": header.encoding, "chunks": chunk.count}
    return Contents(gaussians, usable(gaussians), facts)


def _rest(sh: Element | None, vertex: Element, path: Path) -> tuple[str, ...]:
    if sh is None:
        return ()
    check_rest(sh.names, path)
    if sh.count != vertex.count or {kind for _, kind in sh.properties} - {"u1"}:
        raise damaged(path, "an sh table that is not one row of bytes per vertex")
    return rest_names(sh.names)


def _ranges(
    file: BinaryIO, header: Header, chunk: Element, path: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    """Lowest and highest means, log scales and colours of each chunk, ``[chunks, 3]`` each."""
    names = {
        "means": [(f"min_{a}", f"max_{a}") for a in _AXES],
        "logs": [(f"min_scale_{a}", f"max_scale_{a}") for a in _AXES],
        "rgb": [(f"min_{c}", f"max_{c}") for c in "rgb"],
    }
    table = torch.cat(
        [stack(columns, chunk.names) for _, columns in blocks(file, header, chunk, path)]
        or [torch.zeros(0, len(chunk.names))]
    )
    found = {}
    for kind, pairs in names.items():
        wanted = [name for pair in pairs for name in pair]
        missing = [name for name in wanted if name not in chunk.names]
        if kind == "rgb" and len(missing) == len(wanted):  # SuperSplat 1 knew no colour ranges
            found[kind] = (torch.zeros(chunk.count, 3), torch.ones(chunk.count, 3))
        elif missing:
            raise damaged(path, f"chunks lack {', '.join(missing)}")
        else:
            low, high = (table[:, [chunk.names.index(pair[i]) for pair in pairs]] for i in (0, 1))
            found[kind] = (low, high)
    return found


def _unpack(
    gaussians: Gaussians, rows: slice, columns: Columns, ranges: dict[str, tuple[Tensor, Tensor]]
) -> None:
    position, rotation, scale, colour = (_word(columns, name) for name in _WORDS)
    chunk = torch.arange(rows.start, rows.stop) // _CHUNK

    def between(kind: str, share: Tensor) -> Tensor:
        low, high = (bound[chunk].double() for bound in ranges[kind])
        return (low + (high - low) * share).float()

    gaussians.means[rows] = between("means", _shares(position, 11, 10, 11))
    gaussians.scales[rows] = logs_to_scales(between("logs", _shares(scale, 11, 10, 11)))
    rgba = _shares(colour, 8, 8, 8, 8)
    gaussians.sh[rows, 0] = rgb_to_sh(between("rgb", rgba[:, :3]))
    gaussians.opacities[rows] = rgba[:, 3].float()
    others = (_shares(rotation, 2, 10, 10, 10)[:, 1:] - 0.5) * 2**0.5
    gaussians.quats[rows] = smallest_three(rotation >> 30, others)


def _word(columns: Columns, name: str) -> Tensor:
    values: np.ndarray[Any, Any] = columns[name].astype(np.int64)
    return torch.from_numpy(values)


def _shares(word: Tensor, *bits: int) -> Tensor:
    """``[M, len(bits)]`` float64 in 0..1: fields of a 32-bit word, the highest bits first."""
    fields, shift = [], 32
    for width in bits:
        shift -= width
        fields.append(((word >> shift) & (2**width - 1)).double() / (2**width - 1))
    return torch.stack(fields, dim=1)


def _bytes_to_sh(values: Tensor) -> Tensor:
    """Bytes to coefficients: the middle of each of 256 steps, the ends of the range exactly."""
    middle = (values + 0.5) / 256
    share = torch.where(values == 0, 0.0, torch.where(values == 255, 1.0, middle))
    return (share - 0.5) * _SH_SPAN


def _sniff(head: bytes, path: Path) -> bool:
    return head.startswith((b"ply\n", b"ply\r\n")) and b"packed_position" in head


FORMATS.add("compressed.ply", Format("SuperSplat compressed .ply", ".compressed.ply", _sniff, read))
