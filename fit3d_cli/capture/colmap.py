"""COLMAP projects: ``sparse/0`` (or ``sparse``, or the folder itself) beside ``images``.

COLMAP puts pixel centres at +0.5, as fit3d does: principal points are taken unchanged.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path

from fit3d_cli.capture.base import READERS, Capture, Distortion, Reader, View
from fit3d_cli.capture.colmap_model import (
    ColmapCamera,
    ColmapImage,
    count_images,
    is_model,
    model_file,
    pose_matrix,
    read_cameras,
    read_images,
    read_points,
    read_rig_poses,
)
from fit3d_cli.capture.distortion import FISHEYE, OPENCV, make_distortion
from fit3d_cli.capture.files import RESTORE, intrinsics
from fit3d_cli.errors import CaptureError

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")


def sniff(path: Path) -> bool:
    """Whether there is a sparse model."""
    return bool(_models(path))


def _models(path: Path) -> list[Path]:
    folders = [path, path / "sparse"]
    with suppress(OSError):
        folders += sorted(entry for entry in (path / "sparse").iterdir() if entry.is_dir())
    return [folder for folder in folders if is_model(folder)]


def read(path: Path) -> Capture:
    """Read the model that registers most images.

    Raises:
        CaptureError: A file is missing or damaged, or a camera model cannot be undistorted.
    """
    notes = []
    models = _models(path)
    if not models:
        raise CaptureError("no cameras and images files", where=path, hint=RESTORE)
    counts = [count_images(_file(model, "images")) for model in models]
    best = counts.index(max(counts))
    model = models[best]
    if len(models) > 1:
        others = ", ".join(
            f"{other.name} has {count}"
            for other, count in zip(models, counts, strict=True)
            if other is not model
        )
        notes.append(f"model {model.name} with {counts[best]} photos taken; {others}")
    cameras = read_cameras(_file(model, "cameras"))
    images = read_images(_file(model, "images"))
    folder = _image_folder(path, model, [image.name for image in images])
    root = folder.parent
    notes += _unregistered(folder, len(images))
    rigs, frames = model_file(model, "rigs"), model_file(model, "frames")
    poses = read_rig_poses(rigs, frames) if rigs and frames else {}
    views = []
    for image in images:
        camera = cameras.get(image.camera_id)
        if camera is None:
            raise CaptureError(
                f"{image.name} has camera {image.camera_id}, which is not in the cameras file",
                where=_file(model, "images"),
                hint=RESTORE,
            )
        K_values, distortion = lens_of(camera, model, folder)
        viewmat = poses.get(image.image_id)
        views.append(
            View(
                name=f"{folder.name}/{_posix(folder, image)}",
                image_path=folder / _posix(folder, image),
                viewmat=pose_matrix(image.pose) if viewmat is None else viewmat,
                K=intrinsics(*K_values),
                width=camera.width,
                height=camera.height,
                distortion=distortion,
            )
        )
    points_file = model_file(model, "points3D")
    points = read_points(points_file) if points_file else None
    return Capture(root.name, root, "colmap", tuple(views), points, notes=tuple(notes))


def _file(model: Path, stem: str) -> Path:
    return model_file(model, stem) or model / f"{stem}.bin"


def _unregistered(folder: Path, registered: int) -> list[str]:
    """A note where the model is of a small part of the photos, and so perhaps the wrong one."""
    there = sum(p.suffix.lower() in _PHOTOS for p in folder.rglob("*"))
    return [f"{registered} of {there} photos are in the model"] if 2 * registered < there else []


def _posix(folder: Path, image: ColmapImage) -> str:
    """The image's name; models made on Windows may use backslashes."""
    if "\\" in image.name and not (folder / image.name).exists():
        return image.name.replace("\\", "/")
    return image.name


def _image_folder(path: Path, model: Path, names: list[str]) -> Path:
    """The folder that the names of the model are relative to.

    ``images`` beside the model or above it, else the only folder of the capture that holds all
    of the names.
    """
    if not names:
        raise CaptureError("no registered image", where=_file(model, "images"), hint=RESTORE)
    bases = [path, *(base for base in (model.parent, model.parent.parent) if base != path)]
    for base in bases if model == path else [path]:
        if (base / "images").is_dir():
            return base / "images"
    children = sorted(c for c in path.iterdir() if c.is_dir() and not c.name.startswith("."))
    holders = [
        folder for folder in [path, *children] if all((folder / name).is_file() for name in names)
    ]
    if len(holders) == 1:
        return holders[0]
    raise CaptureError(
        f"{len(holders)} folders hold {names[0]}" if holders else f"{names[0]} is nowhere",
        where=path,
        hint="put the photos into a folder named images",
    )


def lens_of(
    camera: ColmapCamera, model: Path, folder: Path
) -> tuple[tuple[float, float, float, float], Distortion | None]:
    """fx, fy, cx, cy and the distortion of a COLMAP camera."""
    p = camera.params
    if camera.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        f, cx, cy, *k = p
        return (f, f, cx, cy), make_distortion(OPENCV, tuple(k))
    if camera.model in ("PINHOLE", "OPENCV", "FULL_OPENCV"):
        return (p[0], p[1], p[2], p[3]), make_distortion(OPENCV, p[4:])
    if camera.model in ("SIMPLE_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        f, cx, cy, *k = p
        return (f, f, cx, cy), make_distortion(FISHEYE, tuple(k))
    if camera.model in ("FISHEYE", "OPENCV_FISHEYE"):
        return (p[0], p[1], p[2], p[3]), make_distortion(FISHEYE, p[4:])
    places = (os.path.relpath(place, folder.parent) for place in (folder, model))
    words = ["--image_path", "--input_path", "--output_path"]
    pairs = zip(words, (*places, "undistorted"), strict=True)
    raise CaptureError(
        f"camera model {camera.model} is not supported",
        where=_file(model, "cameras"),
        hint=f"in {folder.parent.name} run: colmap image_undistorter "
        + " ".join(f"{word} {shlex.quote(place)}" for word, place in pairs),
    )


READERS.add(
    "colmap",
    Reader("sparse/0/{cameras,images,points3D}.{bin,txt} and images/ (COLMAP)", sniff, read),
)
