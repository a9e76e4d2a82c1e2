"""Replica as rendered for NICE-SLAM: ``results/``, ``traj.txt`` and ``cam_params.json``.

``results/frameNNNNNN.jpg`` and ``results/depthNNNNNN.png`` (16 bit, ``scale`` units per metre
along the optical axis); line N of ``traj.txt`` is the 4x4 camera-to-world matrix of frame N, row
by row, metres, OpenCV axes. ``cam_params.json`` lies beside ``traj.txt`` or one folder up, for
all scenes. Its principal point counts pixel centres at whole numbers (599.5 in the middle of
1200 pixels); 0.5 is added.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, Reader, View
from fit3d_cli.capture.files import (
    RESTORE,
    Fields,
    intrinsics,
    invert_pose,
    numbers,
    read_json,
    read_text,
)
from fit3d_cli.errors import CaptureError

_PHOTO = re.compile(r"frame(\d+)\.(?:jpg|jpeg|png)")
_CAMERA = "cam_params.json"


def sniff(path: Path) -> bool:
    """Whether there is a ``traj.txt`` and a photo in ``results``."""
    try:
        return (path / "traj.txt").is_file() and any(
            _PHOTO.fullmatch(entry.name) for entry in (path / "results").iterdir()
        )
    except OSError:
        return False


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged.
    """
    camera = _camera(path)
    width, height, scale = camera.size("w"), camera.size("h"), camera.number("scale")
    K = intrinsics(
        camera.number("fx"), camera.number("fy"), camera.number("cx") + 0.5,
        camera.number("cy") + 0.5,
    )  # fmt: skip
    poses = _poses(path / "traj.txt")
    present = {entry.name for entry in (path / "results").iterdir()}
    photos: dict[int, str] = {}
    for name in sorted(present):
        if match := _PHOTO.fullmatch(name):
            number = int(match[1])
            if number in photos:
                raise CaptureError(
                    f"{photos[number]} and {name} are the same frame",
                    where=path / "results",
                    hint="keep one of them",
                )
            photos[number] = name
    views = []
    for number, name in sorted(photos.items()):
        if number >= len(poses):
            raise CaptureError(
                f"{len(poses)} poses, none for {name}",
                where=path / "traj.txt",
                hint="line N is the pose of frame N; take the file of these frames",
            )
        depth = re.sub(r"frame(\d+)\..*", r"depth\1.png", name)
        views.append(
            View(
                name=f"results/{name}",
                image_path=path / "results" / name,
                viewmat=invert_pose(poses[number]),
                K=K.clone(),
                width=width,
                height=height,
                depth_path=path / "results" / depth if depth in present else None,
                depth_scale=scale,
            )
        )
    unseen = len(poses) - len(views)
    notes = (f"{len(poses)} poses, {len(views)} of them with a photo",) if unseen else ()
    return Capture(path.name, path, "replica", tuple(views), metric=True, notes=notes)


def _camera(path: Path) -> Fields:
    places = (path / _CAMERA, path.parent / _CAMERA)
    place = next((p for p in places if p.is_file()), None)
    if place is None:
        raise CaptureError(
            f"no {_CAMERA} here or in the folder above",
            where=path,
            hint="copy it from the top folder of the dataset beside traj.txt",
        )
    return Fields(read_json(place).get("camera"), place, "camera")


def _poses(path: Path) -> list[Tensor]:
    poses = []
    for count, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 16:
            raise CaptureError(
                f"line {count}: {len(words)} numbers, expected the 16 of a 4x4 matrix",
                where=path,
                hint=RESTORE,
            )
        values = numbers(words, path, count)
        poses.append(torch.tensor(values, dtype=torch.float64).reshape(4, 4))
    return poses


READERS.add(
    "replica",
    Reader("results/{frame*.jpg,depth*.png}, traj.txt, cam_params.json (Replica)", sniff, read),
)
