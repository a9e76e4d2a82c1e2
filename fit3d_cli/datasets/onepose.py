"""OnePose-LowTexture (He et al., OnePose++, 2022): 40 objects, two videos each, object poses.

Layout, as published (metres)::

    [lowtexture_test_data/]<id>-<object>-<category>/
        <object>-1/{color/N.png, intrin_ba/N.txt, poses_ba/N.txt, anno_loftr/N.json}   templates
        <object>-2/{color/N.png, intrin_ba/N.txt, poses_ba/N.txt}                      queries

``intrin_ba`` holds K (3x3) of a cropped picture, ``poses_ba`` object to camera (4x4). The key
points of the templates come from structure from motion, which the archive does not contain.
Either of its two usual results is read, the first that is there:

- OnePose++'s: ``anno_loftr/N.json`` (``keypoints2d`` [[x, y], ...], ``assign_matrix`` [[index of
  keypoint, ...], [index of point, ...]]) with ``keypoints3d`` ``[N, 3]`` in
  ``<object folder>/anno/anno_3d_average.npz``, sought in the object's folder and in
  ``sfm_output/outputs_softmax_loftr_loftr/`` of the root or beside it;
- a COLMAP text model ``<object>-1/sparse/{images,points3D}.txt`` in the object's coordinates whose
  image names are those of ``color/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.datasets.onepose_points import Keypoints, find_keypoints
from fit3d_cli.errors import DatasetError

FOLDER = "lowtexture_test_data"
LAYOUT = (
    "<id>-<object>-<category>/<object>-{1,2}/{color,intrin_ba,poses_ba} with key points of"
    " structure from motion (anno_loftr/*.json + anno_3d_average.npz, or sparse/*.txt of COLMAP)"
)
SOURCE = (
    "https://github.com/zju3dv/OnePose_Plus_Plus (doc/dataset_document.md; no licence is stated for"
    " the data, the code is Apache-2.0)"
)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Template:
    """A photo of the first video with known points of the object.

    Attributes:
        image: The photo.
        keypoints: Where its points are read from.
    """

    image: Path
    keypoints: Keypoints


@dataclass(frozen=True)
class PoseQuery:
    """A photo of the second video.

    Attributes:
        image: The photo.
        K: ``[3, 3]`` float64 intrinsics in its pixels.
        pose: ``[4, 4]`` float64 object to camera, OpenCV axes, metres.
    """

    image: Path
    K: Tensor
    pose: Tensor


@dataclass(frozen=True)
class PoseObject:
    """An object.

    Attributes:
        name: Its folder.
        templates: Photos of the first video, sorted by number.
        queries: Every tenth photo of the second video.
    """

    name: str
    templates: tuple[Template, ...]
    queries: tuple[PoseQuery, ...]


def read_onepose(root: Path, *, every: int = 10) -> tuple[PoseObject, ...]:
    """All objects, sorted by their number.

    Args:
        root: The folder of the objects, or the one above.
        every: Of the queries; the published evaluation takes every tenth.

    Raises:
        DatasetError: Absent, laid out otherwise, or a damaged file.
    """
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    folders = []
    if base.is_dir():
        folders = sorted(
            (p for p in base.iterdir() if len(p.name.split("-")) >= 3 and p.is_dir()),
            key=lambda p: _number(p.name),
        )
    if not folders:
        raise DatasetError(
            f"not found, or not laid out as {LAYOUT}",
            where=root,
            hint=f"get it from {SOURCE} and name it with --data DIR",
        )
    return tuple(_object(folder, every) for folder in folders)


def _object(folder: Path, every: int) -> PoseObject:
    name = folder.name.split("-")[1]
    first, second = folder / f"{name}-1", folder / f"{name}-2"
    photos = [_photos(sequence / "color") for sequence in (first, second)]
    for sequence, found in zip((first, second), photos, strict=True):
        if not found:
            raise DatasetError(
                "no photos", where=sequence / "color", hint=f"complete the download: {LAYOUT}"
            )
    keypoints = find_keypoints(folder, first)
    templates = [Template(p, keypoints[p.stem]) for p in photos[0] if p.stem in keypoints]
    if not templates:
        raise DatasetError(
            "no template has key points of structure from motion", where=first,
            hint=f"add them: {LAYOUT}",
        )  # fmt: skip
    queries = tuple(
        PoseQuery(
            photo,
            read_intrinsics(second / "intrin_ba" / f"{photo.stem}.txt"),
            read_pose(second / "poses_ba" / f"{photo.stem}.txt"),
        )
        for photo in photos[1][::every]
    )
    return PoseObject(folder.name, tuple(templates), queries)


def _photos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg")]
    return sorted((p for p in found if not p.name.startswith(".")), key=lambda p: _number(p.name))


def _number(name: str) -> tuple[int, str]:
    """Numbered names in the order of their numbers, others behind them."""
    digits = re.match(r"\d{1,12}", name)
    return (int(digits[0]) if digits else 1 << 40, name)


def read_intrinsics(path: Path) -> Tensor:
    """``[3, 3]`` float64 K of a pinhole camera.

    Raises:
        DatasetError: Missing, damaged, or no such matrix.
    """
    K = read_matrix(path, 3, 3)
    if not (float(K[0, 0]) > 0 and float(K[1, 1]) > 0) or K[2].tolist() != [0, 0, 1]:
        raise DatasetError("not the intrinsics of a pinhole camera", where=path,
                           hint="restore the file")  # fmt: skip
    return K


def read_pose(path: Path) -> Tensor:
    """``[4, 4]`` float64 rigid motion.

    Raises:
        DatasetError: Missing, damaged, or no rotation and translation.
    """
    pose = read_matrix(path, 4, 4)
    R = pose[:3, :3]
    rigid = torch.allclose(R @ R.T, torch.eye(3, dtype=R.dtype), atol=1e-3)
    if not rigid or float(torch.linalg.det(R)) < 0 or pose[3].tolist() != [0, 0, 0, 1]:
        raise DatasetError("not a rigid motion", where=path, hint="restore the file")
    return pose


def read_matrix(path: Path, rows: int, columns: int) -> Tensor:
    """A small text file of finite numbers as a float64 matrix.

    Raises:
        DatasetError: Missing, damaged or of another shape.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than 1 MiB")
        lines = path.read_text(encoding="utf-8").splitlines()
        values = torch.tensor(
            [[float(word) for word in line.split()] for line in lines if line.strip()],
            dtype=torch.float64,
        )
        if values.shape != (rows, columns) or not bool(torch.isfinite(values).all()):
            raise ValueError(f"not {rows}x{columns} finite numbers")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read as a matrix ({error})", where=path, hint="restore the file"
        ) from error
    return values
