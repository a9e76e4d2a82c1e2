"""``transforms.json`` as nerfstudio, instant-ngp and the Blender NeRF scenes write it.

Poses are camera to world with OpenGL axes (x right, y up, z backward); the last two axes of the
camera are turned round for OpenCV.

Pixel convention: ``cx`` and ``cy`` are used as they stand. Both programs shoot the ray of pixel
``(i, j)`` through ``(i + 0.5, j + 0.5)``, and both copy the principal point unchanged from
COLMAP, whose pixel centres also lie at +0.5; so there is nothing to shift.

Lens coefficients have OpenCV's meaning: ``k1 k2 p1 p2 k3 k4`` of the radial-tangential model
(k4 is the first of the denominator), or ``k1 k2 k3 k4`` of the fisheye. Depth is in millimetres
of a world in metres, masks are black where the photo is to be ignored.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from fit3d_cli.capture.base import READERS, Capture, Distortion, Reader, SparsePoints, View
from fit3d_cli.capture.distortion import FISHEYE, OPENCV, make_distortion
from fit3d_cli.capture.files import Fields, intrinsics, invert_pose, locate, read_json, stored_size
from fit3d_cli.capture.ply_points import read_ply_points
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import OPENGL_TO_OPENCV

FILES = ("transforms.json", "transforms_train.json")
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
_FISHEYE = ("OPENCV_FISHEYE",)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def sniff(path: Path) -> bool:
    """Whether one of the files is there."""
    try:
        return any((path / name).is_file() for name in FILES)
    except OSError:
        return False


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged; the message names the field.
    """
    source = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    top = read_json(source)
    views = tuple(_view(path, source, frame) for frame in top.objects("frames"))
    points = _points(path, source, top.text("ply_file_path", ""))
    notes = []
    if source.name != FILES[0]:
        notes.append(f"{source.name} taken; the files of the other splits are not used")
    metric = any(view.depth_path is not None for view in views)
    return Capture(path.name, path, "transforms", views, points, metric, notes=tuple(notes))


def _view(root: Path, source: Path, frame: Fields) -> View:
    name, place = _photo(root, frame.text("file_path"), source)
    if "w" in frame and "h" in frame:
        width, height = frame.size("w"), frame.size("h")
    else:
        width, height = stored_size(place)
    fx, fy = _focal(frame, width, height)
    mask, depth = frame.text("mask_path", ""), frame.text("depth_file_path", "")
    c2w = frame.pose("transform_matrix") * torch.tensor(OPENGL_TO_OPENCV, dtype=torch.float64)
    return View(
        name=name,
        image_path=place,
        viewmat=invert_pose(c2w),
        K=intrinsics(fx, fy, frame.number("cx", width / 2), frame.number("cy", height / 2)),
        width=width,
        height=height,
        distortion=_distortion(frame),
        depth_path=locate(root, depth, source)[1] if depth else None,
        mask_path=locate(root, mask, source)[1] if mask else None,
    )


def _photo(root: Path, stated: str, source: Path) -> tuple[str, Path]:
    """The photo; Blender scenes leave its suffix out."""
    name, place = locate(root, stated, source)
    if not place.is_file():
        for suffix in _SUFFIXES:
            longer = place.with_name(place.name + suffix)
            if longer.is_file():
                return name + suffix, longer
    return name, place


def _focal(frame: Fields, width: int, height: int) -> tuple[float, float]:
    """Focal lengths in pixels; ``fl_x`` wins over ``camera_angle_x``, in radians."""
    if "fl_x" in frame:
        fx = frame.number("fl_x")
    elif "camera_angle_x" in frame:
        fx = _from_angle(frame, "camera_angle_x", width)
    else:
        raise CaptureError(
            f"{frame.label}: neither fl_x nor camera_angle_x",
            where=frame.path,
            hint="add fl_x, the focal length in pixels",
        )
    if "fl_y" in frame:
        return fx, frame.number("fl_y")
    if "fl_x" not in frame and "camera_angle_y" in frame:
        return fx, _from_angle(frame, "camera_angle_y", height)
    return fx, fx


def _from_angle(frame: Fields, field: str, side: int) -> float:
    angle = frame.number(field)
    if not 0 < angle < math.pi:
        frame.fail(f"expected an angle between 0 and pi radians, found {angle:g}", field)
    return side / (2 * math.tan(angle / 2))


def _distortion(frame: Fields) -> Distortion | None:
    model = frame.text("camera_model", "OPENCV")
    k1, k2, k3, k4 = (frame.number(key, 0.0) for key in ("k1", "k2", "k3", "k4"))
    if model in _FISHEYE or (model in _PERSPECTIVE and frame.flag("is_fisheye")):
        return make_distortion(FISHEYE, (k1, k2, k3, k4))
    if model not in _PERSPECTIVE:
        raise CaptureError(
            f"{frame.label}: camera_model {model} is not supported",
            where=frame.path,
            hint="undistort the photos, or use OPENCV, PINHOLE or OPENCV_FISHEYE",
        )
    p1, p2 = frame.number("p1", 0.0), frame.number("p2", 0.0)
    k5, k6 = frame.number("k5", 0.0), frame.number("k6", 0.0)
    return make_distortion(OPENCV, (k1, k2, p1, p2, k3, k4, k5, k6))


def _points(root: Path, source: Path, stated: str) -> SparsePoints | None:
    return read_ply_points(locate(root, stated, source)[1]) if stated else None


READERS.add(
    "transforms",
    Reader("transforms.json (nerfstudio, instant-ngp, Blender NeRF)", sniff, read),
)
