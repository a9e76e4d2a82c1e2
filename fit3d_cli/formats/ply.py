"""The 3DGS ``.ply`` that every trainer writes.

Per vertex: ``x y z nx ny nz f_dc_0..2 f_rest_0..n opacity scale_0..2 rot_0..3``, where opacity is
a logit, scales are natural logs, rotations are wxyz of any length, and ``f_rest`` lists all
coefficients of red, then of green, then of blue. Other programs leave out normals or ``f_rest``.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats.base import FORMATS, Contents, Format, damaged, empty_gaussians, usable
from fit3d_cli.formats.ply_header import Columns, Element, blocks, parse_header, require_rows
from fit3d_cli.geometry.activations import (
    logits_to_opacities,
    logs_to_scales,
    opacities_to_logits,
    scales_to_logs,
    unit_quats,
)
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.shapes import check_dims
from fit3d_cli.storage import write_bytes

MEANS = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")
COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
CLASS = "class_id"
REST_COUNTS = (0, 9, 24, 45)


def read(file: BinaryIO, path: Path) -> Contents:
    """Read a 3DGS ``.ply``: binary of either byte order, or ASCII.

    Raises:
        ArchiveError: Not a Gaussian ``.ply``, or damaged.
    """
    header = parse_header(file, path)
    vertex = _vertex(header.element("vertex"), path)
    require_rows(file, header, vertex, path)
    rest = rest_names(vertex.names)
    gaussians = empty_gaussians(vertex.count, len(rest) // 3 + 1)
    good = torch.ones(vertex.count, dtype=torch.bool)
    for rows, columns in blocks(file, header, vertex, path):
        quats, logits = stack(columns, QUATS), stack(columns, ("opacity",))[:, 0]
        gaussians.means[rows] = stack(columns, MEANS)
        gaussians.quats[rows] = unit_quats(quats)
        gaussians.scales[rows] = logs_to_scales(stack(columns, SCALES))
        gaussians.opacities[rows] = logits_to_opacities(logits)
        gaussians.sh[rows, 0] = stack(columns, COLOUR)
        if rest:
            gaussians.sh[rows, 1:] = coefficients(stack(columns, rest))
        # An infinite logit is an opacity of 0 or 1: what converters make of a byte of 0 or 255.
        good[rows] = quats.double().norm(dim=1) > 1e-8
    known = {*MEANS, *NORMALS, *COLOUR, *rest, "opacity", *SCALES, *QUATS}
    facts = {
        "encoding": header.encoding,
        "normals": set(NORMALS) <= set(vertex.names),
        "more_properties": [name for name in vertex.names if name not in known],
    }
    return Contents(gaussians, good & usable(gaussians), facts)


def write(path: Path, gaussians: Gaussians, *, classes: Tensor | None = None) -> None:
    """Write a binary little-endian 3DGS ``.ply``.

    Args:
        path: The file.
        gaussians: N Gaussians; opacities are clamped to [2e-9, 1].
        classes: ``[N]`` numbers in 0..255, stored as the compact property ``class_id`` that
            editors can select by; None for none.

    Raises:
        StorageError: The file could not be written; a previous one is intact.
    """
    own = gaussians.to("cpu")
    sh = own.sh.detach()
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
    names = [*MEANS, *NORMALS, *COLOUR]
    names += [f"f_rest_{i}" for i in range(rest.shape[1])]
    names += ["opacity", *SCALES, *QUATS]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(own)}"]
    lines += [f"property float {name}" for name in names]
    table = columns.numpy().astype("<f4", copy=False)
    if classes is not None:
        check_dims(classes=(classes, f"{len(own)}"))
        lines.append(f"property uchar {CLASS}")
        joined = np.empty(len(own), dtype=[("floats", "<f4", (len(names),)), (CLASS, "u1")])
        joined["floats"], joined[CLASS] = table, classes.cpu().to(torch.uint8).numpy()
        table = joined
    header = "\n".join([*lines, "end_header\n"]).encode()
    write_bytes(path, [header, table.tobytes() if classes is not None else table.data])


def coefficients(rest: Tensor) -> Tensor:
    """Channel-major ``[N, 3 (K - 1)]`` to ``[N, K - 1, 3]``."""
    return rest.reshape(len(rest), 3, rest.shape[1] // 3).transpose(1, 2)


def stack(columns: Columns, names: tuple[str, ...]) -> Tensor:
    """Some columns as ``[M, len(names)]`` float32; what overflows becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(
            np.stack([columns[name].astype(np.float32) for name in names], axis=1)
        )


def rest_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the view-dependent colour, in order, as many as there are."""
    return tuple(f"f_rest_{i}" for i in range(sum(name.startswith("f_rest_") for name in names)))


def check_rest(names: tuple[str, ...], path: Path) -> None:
    """Refuse a number of coefficients that is no degree of spherical harmonics.

    Raises:
        ArchiveError: It is none of 0, 9, 24 and 45, or there are gaps.
    """
    rest = rest_names(names)
    if len(rest) not in REST_COUNTS or not set(rest) <= set(names):
        raise damaged(path, f"{len(rest)} f_rest properties, expected 0, 9, 24 or 45 in a row")


def _vertex(vertex: Element | None, path: Path) -> Element:
    if vertex is None:
        raise ArchiveError("holds no vertices", where=path, hint="pass a 3DGS .ply")
    needed = (*MEANS, *COLOUR, "opacity", *SCALES, *QUATS)
    missing = [name for name in needed if name not in vertex.names]
    if missing:
        kind = "a point cloud" if set(MEANS) <= set(vertex.names) else "a .ply"
        raise ArchiveError(
            f"{kind}, not Gaussians: its vertices lack {', '.join(missing[:4])}"
            + (f" and {len(missing) - 4} more" if len(missing) > 4 else ""),
            where=path,
            hint="pass what a 3D Gaussian splatting program exported",
        )
    check_rest(vertex.names, path)
    return vertex


def _sniff(head: bytes, path: Path) -> bool:
    return head.startswith((b"ply\n", b"ply\r\n")) and b"packed_position" not in head


FORMATS.add("ply", Format("3DGS .ply", ".ply", _sniff, read, write))
