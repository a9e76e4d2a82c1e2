"""Gaussians in and out of the 3DGS ``.ply`` that viewers and trainers exchange.

Per vertex: ``x y z nx ny nz f_dc_0..2 f_rest_0..n opacity scale_0..2 rot_0..3``, where opacity is
a logit, scales are natural logs, rotations are wxyz of any length, and ``f_rest`` lists all
coefficients of red, then of green, then of blue. Other programs leave out normals or ``f_rest``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.geometry.activations import (
    logits_to_opacities,
    logs_to_scales,
    opacities_to_logits,
    scales_to_logs,
    unit_quats,
)
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh
from fit3d_cli.shapes import check_dims
from fit3d_cli.storage import write_bytes

_HEADER_BYTES = 1 << 16
_WORD_BYTES = 64
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_MEANS = ("x", "y", "z")
_COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_REST_COUNTS = (0, 9, 24, 45)
_REMAKE_HINT = "export it again from the program that made it"


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[tuple[str, str], ...]  # name and numpy type; a list has the type "list"


def read_ply(path: Path, *, drop_invalid: bool = False) -> Gaussians:
    """Read a 3DGS ``.ply``: binary of either byte order, or ASCII.

    Args:
        path: The file.
        drop_invalid: Leave out Gaussians with NaN, infinity, a zero quaternion or a scale that
            float32 cannot hold, instead of refusing the file.

    Returns:
        N Gaussians with unit quaternions, in the file's own world and order.

    Raises:
        ArchiveError: Not a Gaussian ``.ply``, damaged, compressed, or with invalid Gaussians.
    """
    try:
        with path.open("rb") as file:
            order, elements, start = _parse_header(file.read(_HEADER_BYTES), path)
            vertex = _vertex(elements, path)
            file.seek(start)
            columns = _columns(file, order, elements, vertex, path)
    except FileNotFoundError as error:
        raise ArchiveError("no such file", where=path, hint="check the path") from error
    except OSError as error:
        raise ArchiveError(
            f"cannot be read: {error.strerror}", where=path, hint="check the path and its mode"
        ) from error
    rest = _rest_names(columns)
    gaussians = Gaussians(
        means=_stack(columns, _MEANS),
        quats=unit_quats(_stack(columns, _QUATS)),
        scales=logs_to_scales(_stack(columns, _SCALES)),
        opacities=logits_to_opacities(_stack(columns, ("opacity",))[:, 0]),
        sh=_join_sh(_stack(columns, _COLOUR), _stack(columns, rest)),
    )
    logits = _stack(columns, ("opacity",))[:, 0]
    return _valid(gaussians, _stack(columns, _QUATS), logits, path, drop=drop_invalid)


def write_ply(path: Path, gaussians: Gaussians, *, rgb: Tensor | None = None) -> None:
    """Write a binary little-endian 3DGS ``.ply``.

    Args:
        path: The file.
        gaussians: N Gaussians; opacities are clamped to [2e-9, 1].
        rgb: ``[N, 3]`` colours in [0, 1] to show instead of the Gaussians' own, e.g. the PCA of
            features. They are the same from all sides, so ``f_rest`` is left out.

    Raises:
        StorageError: The file could not be written; a previous one is intact.
    """
    own = gaussians.to("cpu")
    sh = own.sh.detach()
    if rgb is not None:
        check_dims(rgb=(rgb, f"{len(own)} 3"))
        sh = rgb_to_sh(rgb.detach().cpu())[:, None]
    rest = sh[:, 1:].transpose(1, 2).flatten(1)  # [N, 3 (K - 1)], channel-major
    columns = torch.cat(
        [
            own.means.detach(),
            torch.zeros(len(own), 3),
            sh[:, 0],
            rest,
            opacities_to_logits(own.opacities.detach())[:, None],
            scales_to_logs(own.scales.detach()),
            unit_quats(own.quats.detach()),
        ],
        dim=1,
    )
    names = [*_MEANS, "nx", "ny", "nz", *_COLOUR]
    names += [f"f_rest_{i}" for i in range(rest.shape[1])]
    names += ["opacity", *_SCALES, *_QUATS]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(own)}"]
    lines += [f"property float {name}" for name in names]
    header = "\n".join([*lines, "end_header\n"]).encode()
    write_bytes(path, [header, columns.numpy().astype("<f4", copy=False).data])


def _parse_header(raw: bytes, path: Path) -> tuple[str, list[_Element], int]:
    if not re.match(rb"ply\r?\n", raw):
        raise ArchiveError("not a .ply file", where=path, hint="pass a 3DGS .ply")
    end = re.search(rb"\nend_header[ \t]*\r?\n", raw)
    if end is None:
        raise _damaged(path, f"no end_header in the first {len(raw)} bytes")
    order: str | None = None
    elements: list[_Element] = []
    for line in raw[: end.start()].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _FORMATS:
            order = _FORMATS[words[1]]
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"\d{1,18}", words[2]):
            elements.append(_Element(words[1], int(words[2]), ()))
        elif words[0] == "property" and elements and len(words) in (3, 5):
            kind = "list" if words[1] == "list" else _TYPES.get(words[1])
            if kind is None or (kind == "list") != (len(words) == 5):
                raise _damaged(path, f"unknown property {line.strip()[:60]!r}")
            last = elements[-1]
            if any(words[-1] == name for name, _ in last.properties):
                raise _damaged(path, f"property {words[-1][:40]} is given twice")
            elements[-1] = _Element(last.name, last.count, (*last.properties, (words[-1], kind)))
        else:
            raise _damaged(path, f"unknown header line {line.strip()[:60]!r}")
    if order is None:
        raise _damaged(path, "no format line")
    return order, elements, end.end()


def _vertex(elements: list[_Element], path: Path) -> _Element:
    vertex = next((element for element in elements if element.name == "vertex"), None)
    names = {name for name, _ in vertex.properties} if vertex else set()
    if any(name.startswith("packed_") for name in names):
        raise ArchiveError(
            "a SuperSplat compressed .ply, which is not supported",
            where=path,
            hint="convert it to a plain .ply with splat-transform",
        )
    if vertex is None:
        raise ArchiveError("holds no vertices", where=path, hint="pass a 3DGS .ply")
    needed = (*_MEANS, *_COLOUR, "opacity", *_SCALES, *_QUATS)
    missing = [name for name in needed if name not in names]
    if missing:
        raise ArchiveError(
            f"not a Gaussian .ply, its vertices lack {', '.join(missing)}",
            where=path,
            hint="pass what a 3D Gaussian splatting program exported",
        )
    rest = sorted(name for name in names if name.startswith("f_rest_"))
    expected = sorted(f"f_rest_{i}" for i in range(len(rest)))
    if len(rest) not in _REST_COUNTS or rest != expected:
        raise _damaged(path, f"{len(rest)} f_rest properties, expected 0, 9, 24 or 45 in a row")
    return vertex


def _columns(
    file: Any, order: str, elements: list[_Element], vertex: _Element, path: Path
) -> dict[str, np.ndarray[Any, Any]]:
    """Each property of the vertices as float32."""
    before = elements[: elements.index(vertex)]
    if any(kind == "list" for element in (*before, vertex) for _, kind in element.properties):
        raise _damaged(path, "lists before or among the vertices are not supported")
    names = [name for name, _ in vertex.properties]
    if not order:
        tokens = file.read().split()
        skip = sum(element.count * len(element.properties) for element in before)
        need = vertex.count * len(names)
        if len(tokens) < skip + need:
            raise _damaged(path, f"truncated at {len(tokens)} of {skip + need} numbers")
        tokens = tokens[skip : skip + need]
        if any(len(token) > _WORD_BYTES for token in tokens):
            raise _damaged(path, f"a number of more than {_WORD_BYTES} characters")
        try:
            table = np.array(tokens, dtype="S").astype(np.float64)
        except ValueError as error:
            raise _damaged(path, "a word among the numbers") from error
        table = table.reshape(vertex.count, len(names))
        return {name: _float32(table[:, i]) for i, name in enumerate(names)}
    skip = sum(
        element.count * sum(np.dtype(kind).itemsize for _, kind in element.properties)
        for element in before
    )
    layout = np.dtype([(name, order + kind) for name, kind in vertex.properties])
    start = file.tell() + skip
    total = start + vertex.count * layout.itemsize
    size = os.fstat(file.fileno()).st_size
    if size < total:
        raise _damaged(path, f"truncated at {size} of {total} bytes")
    file.seek(start)
    rows: np.ndarray[Any, Any] = np.frombuffer(file.read(total - start), dtype=layout)
    return {name: _float32(rows[name]) for name in names}


def _float32(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
        return column.astype(np.float32)


def _rest_names(columns: dict[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    count = sum(name.startswith("f_rest_") for name in columns)
    return tuple(f"f_rest_{i}" for i in range(count))


def _stack(columns: dict[str, np.ndarray[Any, Any]], names: tuple[str, ...]) -> Tensor:
    count = len(columns["x"])
    if not names:
        return torch.zeros(count, 0)
    return torch.from_numpy(np.stack([columns[name] for name in names], axis=1))


def _join_sh(base: Tensor, rest: Tensor) -> Tensor:
    """``[N, 3]`` and channel-major ``[N, 3 (K - 1)]`` to ``[N, K, 3]``."""
    high = rest.reshape(len(base), 3, rest.shape[1] // 3).transpose(1, 2)
    return torch.cat([base[:, None], high], dim=1).contiguous()


def _valid(
    gaussians: Gaussians, quats: Tensor, logits: Tensor, path: Path, *, drop: bool
) -> Gaussians:
    finite = torch.cat([gaussians.means, quats, gaussians.sh.flatten(1), logits[:, None]], dim=1)
    good = finite.isfinite().all(1) & (quats.double().norm(dim=1) > 1e-8)
    good &= ((gaussians.scales > 0) & gaussians.scales.isfinite()).all(1)
    bad = int((~good).sum())
    if bad and not drop:
        first = int((~good).nonzero()[0])
        raise ArchiveError(
            f"{bad} of {len(good)} Gaussians are not finite or have a zero quaternion, "
            f"first {first}",
            where=path,
            hint="remove them in the program that made it, or drop invalid Gaussians on import",
        )
    return gaussians.select(good) if bad else gaussians


def _damaged(path: Path, what: str) -> ArchiveError:
    return ArchiveError(what, where=path, hint=_REMAKE_HINT)
