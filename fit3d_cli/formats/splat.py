"""The 32-byte ``.splat`` of antimatter15's viewer: no view-dependent colour, no header.

Per Gaussian: means and scales as three float32 each, colour and opacity as four bytes, the
rotation wxyz as four bytes over [-1, 1). The numbers are in the frame of a ``.ply``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from fit3d_cli.formats.base import (
    BLOCK,
    FORMATS,
    Contents,
    Format,
    damaged,
    empty_gaussians,
    usable,
)
from fit3d_cli.geometry.activations import unit_quats
from fit3d_cli.geometry.gaussians import SH_C0, Gaussians, rgb_to_sh
from fit3d_cli.storage import write_bytes

_ROW = np.dtype(
    [("means", "<f4", (3,)), ("scales", "<f4", (3,)), ("rgba", "u1", (4,)), ("quats", "u1", (4,))]
)


def read(file: BinaryIO, path: Path) -> Contents:
    """Read a ``.splat``.

    Raises:
        ArchiveError: Its length is no multiple of 32 bytes.
    """
    size = os.fstat(file.fileno()).st_size
    if size % _ROW.itemsize:
        raise damaged(path, f"{size} bytes are no multiple of the {_ROW.itemsize} of a Gaussian")
    gaussians = empty_gaussians(size // _ROW.itemsize, 1)
    good = torch.ones(len(gaussians), dtype=torch.bool)
    for start in range(0, len(gaussians), BLOCK):
        stop = min(start + BLOCK, len(gaussians))
        raw = file.read((stop - start) * _ROW.itemsize)
        if len(raw) < (stop - start) * _ROW.itemsize:
            raise damaged(path, "became shorter while it was read")
        table = np.frombuffer(raw, dtype=_ROW)
        rows = slice(start, stop)
        rgba = torch.from_numpy(table["rgba"].astype(np.float32)) / 255
        quats = (torch.from_numpy(table["quats"].astype(np.float32)) - 128) / 128
        gaussians.means[rows] = torch.from_numpy(table["means"].astype(np.float32))
        gaussians.scales[rows] = torch.from_numpy(table["scales"].astype(np.float32))
        gaussians.opacities[rows] = rgba[:, 3]
        gaussians.sh[rows, 0] = rgb_to_sh(rgba[:, :3])
        gaussians.quats[rows] = unit_quats(quats)
        good[rows] = (quats != 0).any(1)
    return Contents(gaussians, good & usable(gaussians))


def write(path: Path, gaussians: Gaussians) -> None:
    """Write a ``.splat``; the view-dependent part of the colour has no place in it.

    Raises:
        StorageError: The file could not be written; a previous one is intact.
    """
    own = gaussians.to("cpu")
    table = np.empty(len(own), dtype=_ROW)
    table["means"] = own.means.detach().numpy()
    table["scales"] = own.scales.detach().numpy()
    rgb = own.sh[:, 0].detach() * SH_C0 + 0.5
    rgba = torch.cat([rgb, own.opacities.detach()[:, None]], dim=1)
    table["rgba"] = (rgba.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    quats = torch.nn.functional.normalize(own.quats.detach(), dim=1)
    table["quats"] = (quats * 128 + 128).round().clamp(0, 255).to(torch.uint8).numpy()
    write_bytes(path, table.tobytes())


def _sniff(head: bytes, path: Path) -> bool:
    return path.suffix.lower() == ".splat" and len(head) >= _ROW.itemsize


FORMATS.add("splat", Format("antimatter15 .splat", ".splat", _sniff, read, write))
