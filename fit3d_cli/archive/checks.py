"""What the numbers of a scene must satisfy, on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.archive.schema import TENSORS
from fit3d_cli.errors import ArchiveError

_BLOCK = 1 << 13  # rows
_NAME_BYTES = 255  # of a file name, on the file systems that are in use
_MOST_PIXELS = 1 << 16  # along a side: what is rendered at the size of a photo must fit somewhere


def check_numbers(tensors: Mapping[str, Tensor], path: Path, *, hint: str) -> None:
    """Refuse stored tensors that no renderer could use.

    Args:
        tensors: Any of the schema's tensors, shapes already checked.
        path: The file, for messages.
        hint: What the user is told to do.

    Raises:
        ArchiveError: Names the tensor, how many rows are at fault, and the first.
    """

    def require(names: str, test: Callable[..., Tensor], what: str) -> None:
        """Rows of all tensors of ``names`` are given to a test that says which are good."""
        given = [tensors[name] for name in names.split() if name in tensors]
        if len(given) < len(names.split()):
            return
        count = len(given[0])
        bad = 0
        first = -1
        # In blocks, so that what the tests need beside the tensors stays small.
        for start in range(0, count, _BLOCK):
            good = test(*(tensor[start : start + _BLOCK] for tensor in given))
            if not bool(good.all()):
                rows = (~(good if good.dim() == 1 else good.flatten(1).all(1))).nonzero()
                first = start + int(rows[0]) if first < 0 else first
                bad += len(rows)
        if bad:
            raise ArchiveError(
                f"{names.split()[0]}: {bad} of {count} {what}, first {first}",
                where=path,
                hint=hint,
            )

    for name in TENSORS:
        if name in tensors and tensors[name].is_floating_point():
            require(name, torch.isfinite, "rows are not finite")
    require("g.quats", _unit, "quaternions are not of unit length")
    require("g.log_scales", _in_range, "scales are out of range")
    require("cam.viewmats", _rigid, "cameras are not rigid")
    require("cam.Ks cam.sizes", _sane, "cameras have impossible intrinsics or sizes")
    require("cam.heldout", lambda flags: flags <= 1, "flags are neither 0 nor 1")


def check_names(names: Iterable[str], path: Path, *, hint: str) -> None:
    """Refuse view names that are not unique relative POSIX paths: outputs are named after them.

    Raises:
        ArchiveError: Names the first at fault; a part of more than 255 bytes is.
    """
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        odd = any(part in ("", ".", "..") or not _nameable(part) for part in parts)
        if "\0" in name or odd:
            raise ArchiveError(f"bad view name {name[:80]!r}", where=path, hint=hint)
        if name in seen:
            raise ArchiveError(f"two views are named {name[:80]!r}", where=path, hint=hint)
        seen.add(name)


def check_scene_name(name: str, path: Path, *, hint: str) -> None:
    """Refuse a scene name that is not a file name.

    Raises:
        ArchiveError: It is empty, ``.`` or ``..``, holds a slash or NUL, or is too long.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name or not _nameable(name):
        raise ArchiveError(f"bad scene name {name[:80]!r}", where=path, hint=hint)


def _nameable(part: str) -> bool:
    """Whether a file system could hold a file of that name."""
    try:
        return len(part.encode("utf-8", "surrogateescape")) <= _NAME_BYTES
    except UnicodeEncodeError:  # half of a character
        return False


def _unit(quats: Tensor) -> Tensor:
    good: Tensor = (quats.norm(dim=1) - 1).abs() < 1e-3
    return good


def _in_range(logs: Tensor) -> Tensor:
    # Beyond this range exp() is 0 or infinite in float32.
    return (logs > -87) & (logs < 88)


def _rigid(viewmats: Tensor) -> Tensor:
    rotations = viewmats[:, :3, :3]
    eye = torch.eye(3, dtype=viewmats.dtype)
    skew = (rotations @ rotations.transpose(1, 2) - eye).abs().amax((1, 2))
    last = viewmats[:, 3] - torch.tensor([0, 0, 0, 1], dtype=viewmats.dtype)
    upright: Tensor = torch.linalg.det(rotations) > 0  # a mirror image is orthonormal too
    return (skew < 1e-3) & upright & (last.abs().amax(1) < 1e-6)


def _sane(Ks: Tensor, stored: Tensor) -> Tensor:
    sizes = stored.double()
    focal = Ks[:, [0, 1], [0, 1]]
    centre = Ks[:, :2, 2]
    last = (Ks[:, 2] - torch.tensor([0, 0, 1], dtype=Ks.dtype)).abs().amax(1) < 1e-6
    # Undistorting and cropping can move the principal point out of the picture, but not far.
    near = ((centre > -sizes) & (centre < 2 * sizes)).all(1)
    return (
        (focal > 0).all(1)
        & ((sizes > 0) & (sizes <= _MOST_PIXELS)).all(1)
        & near
        & last
        & (Ks[:, 1, 0] == 0)
    )
