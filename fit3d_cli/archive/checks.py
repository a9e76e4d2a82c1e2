"""What the numbers of a scene must satisfy, on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.archive.schema import TENSORS
from fit3d_cli.errors import ArchiveError


def check_numbers(tensors: Mapping[str, Tensor], path: Path, *, hint: str) -> None:
    """Refuse stored tensors that no renderer could use.

    Args:
        tensors: Any of the schema's tensors, shapes already checked.
        path: The file, for messages.
        hint: What the user is told to do.

    Raises:
        ArchiveError: Names the tensor, how many rows are at fault, and the first.
    """

    def require(name: str, good: Tensor, what: str) -> None:
        rows = (~(good if good.dim() == 1 else good.flatten(1).all(1))).nonzero()
        if len(rows):
            raise ArchiveError(
                f"{name}: {len(rows)} of {len(good)} {what}, first {int(rows[0])}",
                where=path,
                hint=hint,
            )

    for name in TENSORS:
        tensor = tensors.get(name)
        if tensor is not None and tensor.is_floating_point():
            require(name, tensor.isfinite(), "rows are not finite")
    if "g.quats" in tensors:
        lengths = tensors["g.quats"].norm(dim=1)
        require("g.quats", (lengths - 1).abs() < 1e-3, "quaternions are not of unit length")
    if "g.log_scales" in tensors:
        # Beyond this range exp() is 0 or infinite in float32.
        logs = tensors["g.log_scales"]
        require("g.log_scales", (logs > -87) & (logs < 88), "scales are out of range")
    if "cam.viewmats" in tensors:
        require("cam.viewmats", _rigid(tensors["cam.viewmats"]), "cameras are not rigid")
    if "cam.Ks" in tensors and "cam.sizes" in tensors:
        good = _sane(tensors["cam.Ks"], tensors["cam.sizes"].double())
        require("cam.Ks", good, "cameras have impossible intrinsics or sizes")
    if "cam.heldout" in tensors:
        require("cam.heldout", tensors["cam.heldout"] <= 1, "flags are neither 0 nor 1")


def check_names(names: Iterable[str], path: Path, *, hint: str) -> None:
    """Refuse view names that are not unique relative POSIX paths: outputs are named after them.

    Raises:
        ArchiveError: Names the first at fault.
    """
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        if "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise ArchiveError(f"bad view name {name[:80]!r}", where=path, hint=hint)
        if name in seen:
            raise ArchiveError(f"two views are named {name[:80]!r}", where=path, hint=hint)
        seen.add(name)


def check_scene_name(name: str, path: Path, *, hint: str) -> None:
    """Refuse a scene name that is not a file name.

    Raises:
        ArchiveError: It is empty, ``.`` or ``..``, or holds a slash or NUL.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ArchiveError(f"bad scene name {name[:80]!r}", where=path, hint=hint)


def _rigid(viewmats: Tensor) -> Tensor:
    rotations = viewmats[:, :3, :3]
    eye = torch.eye(3, dtype=viewmats.dtype)
    skew = (rotations @ rotations.transpose(1, 2) - eye).abs().amax((1, 2))
    last = viewmats[:, 3] - torch.tensor([0, 0, 0, 1], dtype=viewmats.dtype)
    upright: Tensor = torch.linalg.det(rotations) > 0  # a mirror image is orthonormal too
    return (skew < 1e-3) & upright & (last.abs().amax(1) < 1e-6)


def _sane(Ks: Tensor, sizes: Tensor) -> Tensor:
    focal = Ks[:, [0, 1], [0, 1]]
    centre = Ks[:, :2, 2]
    last = (Ks[:, 2] - torch.tensor([0, 0, 1], dtype=Ks.dtype)).abs().amax(1) < 1e-6
    # Undistorting and cropping can move the principal point out of the picture, but not far.
    near = ((centre > -sizes) & (centre < 2 * sizes)).all(1)
    return (focal > 0).all(1) & (sizes > 0).all(1) & near & last & (Ks[:, 1, 0] == 0)
