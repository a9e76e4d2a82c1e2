"""ScanNet scans as its reader exports them from ``.sens``.

``color/N.jpg``, ``depth/N.png`` (16 bit, millimetres along the optical axis, 0 = unknown),
``pose/N.txt`` (4x4 camera to world, metres, OpenCV axes; infinite where tracking was lost) and
``intrinsic/{intrinsic,extrinsic}_{color,depth}.txt`` (4x4). N counts up without leading zeros.

Depth has its own size and intrinsics (640x480 beside photos of 1296x968) and is brought to the
photos' pixels when a frame is loaded. The extrinsics lead from the rig, whose pose the files give,
to each camera; in the published scans both are the identity. Principal points count pixel centres
at whole numbers, as the tools that calibrated and fused these scans do; 0.5 is added.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, DepthCamera, Reader, View
from fit3d_cli.capture.files import (
    RESTORE,
    invert_pose,
    numeric_key,
    read_matrix,
    read_pinhole,
    stored_size,
)
from fit3d_cli.errors import CaptureError

_PHOTO = re.compile(r"(\d+)\.(?:jpg|jpeg|png)")
_COLOR, _DEPTH = "intrinsic/intrinsic_color.txt", "intrinsic/intrinsic_depth.txt"


def sniff(path: Path) -> bool:
    """Whether there are photos in ``color``, a folder ``pose`` and one of intrinsics."""
    try:
        return (
            (path / "pose").is_dir()
            and (path / "intrinsic").is_dir()
            and any(_PHOTO.fullmatch(entry.name) for entry in (path / "color").iterdir())
        )
    except OSError:
        return False


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged.
        ImageError: A picture's header cannot be read.
    """
    photos = _photos(path / "color")
    depths = _names(path / "depth", ".png")
    poses = _names(path / "pose", ".txt")
    K = _half(read_pinhole(path / _COLOR))
    color_from_rig = _extrinsic(path, "color")
    camera, depth_size = None, (0, 0)
    if depths:
        rig_from_depth = torch.linalg.inv(_extrinsic(path, "depth"))
        camera = DepthCamera(_half(read_pinhole(path / _DEPTH)), color_from_rig @ rig_from_depth)
        depth_size = stored_size(path / "depth" / min(depths.values(), key=numeric_key))
    views, unposed = [], 0
    size: tuple[int, int] | None = None
    for number, name in sorted(photos.items()):
        if number not in poses:
            unposed += 1
            continue
        size = size or stored_size(path / "color" / name)  # the intrinsics hold for all
        depth = path / "depth" / depths[number] if number in depths else None
        if depth is not None and stored_size(depth) != depth_size:
            width, height = stored_size(depth)
            raise CaptureError(
                f"{width}x{height}, the other depth maps {depth_size[0]}x{depth_size[1]}",
                where=depth,
                hint=RESTORE,
            )
        rig_from_world = invert_pose(read_matrix(path / "pose" / poses[number], (4,)))
        views.append(
            View(
                name=f"color/{name}",
                image_path=path / "color" / name,
                viewmat=color_from_rig @ rig_from_world,
                K=K.clone(),
                width=size[0],
                height=size[1],
                depth_path=depth,
                depth_camera=camera if depth is not None else None,
            )
        )
    dropped = {"no pose file": unposed} if unposed else {}
    return Capture(path.name, path, "scannet", tuple(views), metric=True, dropped=dropped)


def _photos(folder: Path) -> dict[int, str]:
    photos: dict[int, str] = {}
    for name in sorted(entry.name for entry in folder.iterdir()):
        if match := _PHOTO.fullmatch(name):
            number = int(match[1])
            if number in photos:
                raise CaptureError(
                    f"{photos[number]} and {name} are the same frame",
                    where=folder,
                    hint="keep one of them",
                )
            photos[number] = name
    return photos


def _names(folder: Path, suffix: str) -> dict[int, str]:
    """File names by frame number; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    stems = (entry.stem for entry in folder.iterdir() if entry.suffix == suffix)
    return {int(stem): stem + suffix for stem in stems if stem.isdecimal()}


def _half(K: Tensor) -> Tensor:
    """With pixel centres at +0.5."""
    shifted = K.clone()
    shifted[:2, 2] += 0.5
    return shifted


def _extrinsic(path: Path, camera: str) -> Tensor:
    """``[4, 4]`` rig to camera; the identity where the export left the file out."""
    place = path / "intrinsic" / f"extrinsic_{camera}.txt"
    if not place.is_file():
        return torch.eye(4, dtype=torch.float64)
    matrix = read_matrix(place, (4,))
    if not bool(torch.isfinite(invert_pose(matrix)).all()):
        raise CaptureError("not a rigid motion", where=place, hint=RESTORE)
    return matrix


READERS.add(
    "scannet",
    Reader("color/, depth/, pose/, intrinsic/ (ScanNet, exported)", sniff, read),
)
