"""ARKitScenes (3dod and raw): ``<id>_frames``, or the folder above it.

``lowres_wide/<id>_<seconds>.png`` are the photos (256x192), ``lowres_depth`` holds depth of the
same name and size: 16 bit, millimetres along the optical axis. ``lowres_wide_intrinsics/
<id>_<seconds>.pincam`` says ``width height fx fy cx cy``; its time may be off by a millisecond, as
the data's own loader allows. Principal points are ARKit's offsets from the corner of the picture,
so pixel centres lie at +0.5, as here.

``lowres_wide.traj`` has a line per pose: seconds, angle-axis in radians, translation in metres.
They are the rotation and translation from the world to the camera, OpenCV axes (the loader inverts
them to place points). Poses come at 10 Hz, raw photos at 60: a photo takes the nearest pose within
5 ms, and photos without one are left out and counted. Photos are landscape as the sensor saw them,
however the tablet was held; nothing is turned.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, Reader, View
from fit3d_cli.capture.depth_maps import depth_beside
from fit3d_cli.capture.files import MOST_PIXELS, RESTORE, intrinsics, numbers, read_text
from fit3d_cli.errors import CaptureError

_PHOTOS, _DEPTHS, _CAMERAS = "lowres_wide", "lowres_depth", "lowres_wide_intrinsics"
_POSES = "lowres_wide.traj"
_TIME = re.compile(r"(?:.*_)?(\d{1,12}(?:\.\d{1,9})?)", re.ASCII)
# The data's own loader allows these distances in time, seconds.
_POSE_SLACK = 0.005
_CAMERA_SLACK = 0.0015


def sniff(path: Path) -> bool:
    """Whether the low-resolution photos and their trajectory or intrinsics are there."""
    try:
        return _frames_folder(path) is not None
    except OSError:
        return False


def _frames_folder(path: Path) -> Path | None:
    inside = [entry for entry in path.glob("*_frames") if entry.is_dir()]
    for base in (path, *(inside if len(inside) == 1 else [])):
        if (base / _PHOTOS).is_dir() and ((base / _POSES).is_file() or (base / _CAMERAS).is_dir()):
            return base
    return None


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged.
    """
    base = _frames_folder(path)
    if base is None:
        raise CaptureError(f"no {_PHOTOS} and {_POSES}", where=path, hint=RESTORE)
    times, poses = _read_trajectory(base / _POSES)
    cameras = _stamped(base / _CAMERAS, ".pincam")
    camera_times = [time for time, _ in cameras]
    views, unposed = [], 0
    for time, photo in _stamped(base / _PHOTOS, ".png"):
        pose = _nearest(times, time, _POSE_SLACK)
        if pose is None:
            unposed += 1
            continue
        camera = _nearest(camera_times, time, _CAMERA_SLACK)
        if camera is None:
            raise CaptureError(
                f"no intrinsics for {photo.name}", where=base / _CAMERAS, hint=RESTORE
            )
        views.append(_view(path, photo, poses[pose], cameras[camera][1], base / _DEPTHS))
    dropped = {"no pose within 5 ms": unposed} if unposed else {}
    return Capture(path.name, path, "arkitscenes", tuple(views), metric=True, dropped=dropped)


def _view(root: Path, photo: Path, viewmat: Tensor, camera: Path, depths: Path) -> View:
    wide, high, fx, fy, cx, cy = _read_pincam(camera)
    width, height = int(wide), int(high)
    K = intrinsics(fx, fy, cx, cy)
    depth_path, depth_camera = depth_beside(depths / photo.name, K, width, height)
    return View(
        name=photo.relative_to(root).as_posix(),
        image_path=photo,
        viewmat=viewmat,
        K=K,
        width=width,
        height=height,
        depth_path=depth_path,
        depth_camera=depth_camera,
    )


def _stamped(folder: Path, suffix: str) -> list[tuple[float, Path]]:
    """Files of a folder with the times in their names, by time."""
    if not folder.is_dir():
        raise CaptureError("no such folder", where=folder, hint=RESTORE)
    found = []
    for entry in folder.iterdir():
        if entry.suffix.lower() != suffix or entry.name.startswith("."):
            continue
        match = _TIME.fullmatch(entry.name[: -len(suffix)])
        if match is None:
            raise CaptureError(
                "no time in the file's name, expected <id>_<seconds>", where=entry, hint=RESTORE
            )
        found.append((float(match[1]), entry))
    return sorted(found)


def _nearest(times: Sequence[float], time: float, slack: float) -> int | None:
    """Index of the time that is closest, None if none is within ``slack`` seconds."""
    right = bisect_left(times, time)
    near = [i for i in (right - 1, right) if 0 <= i < len(times)]
    best = min(near, key=lambda i: abs(times[i] - time), default=None)
    # Times are decimal numbers of seconds: a nanosecond forgives their rounding to binary.
    return best if best is not None and abs(times[best] - time) <= slack + 1e-9 else None


def _read_trajectory(path: Path) -> tuple[list[float], list[Tensor]]:
    """Times, sorted, and world-to-camera matrices ``[4, 4]``."""
    entries = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        time, *pose = _row(line, 7, path, number)
        if not math.isfinite(time):
            raise CaptureError(f"line {number}: time {time}", where=path, hint=RESTORE)
        entries.append((time, pose))
    entries.sort(key=lambda entry: entry[0])
    return [time for time, _ in entries], [_pose_matrix(pose) for _, pose in entries]


def _pose_matrix(values: Sequence[float]) -> Tensor:
    """``[4, 4]`` from an angle-axis vector and a translation; NaN where they are not finite."""
    x, y, z, *translation = values
    matrix = torch.eye(4, dtype=torch.float64)
    if not all(map(math.isfinite, (*values, math.hypot(x, y, z)))):
        return torch.full_like(matrix, torch.nan)
    angle = math.hypot(x, y, z)
    if angle > 0:  # Rodrigues' formula
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64) / angle
        matrix[:3, :3] += math.sin(angle) * skew + (1 - math.cos(angle)) * (skew @ skew)
    matrix[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    return matrix


def _read_pincam(path: Path) -> list[float]:
    """width, height, fx, fy, cx, cy in pixels."""
    values = _row(read_text(path, 1 << 16), 6, path, 1)
    if not all(0 < side < MOST_PIXELS and side.is_integer() for side in values[:2]):
        raise CaptureError(
            f"size {values[0]:g} x {values[1]:g} is not a number of pixels",
            where=path,
            hint=RESTORE,
        )
    return values


def _row(line: str, count: int, path: Path, number: int) -> list[float]:
    words = line.split()
    if len(words) != count:
        raise CaptureError(
            f"line {number}: {len(words)} numbers, expected {count}", where=path, hint=RESTORE
        )
    return numbers(words, path, number)


READERS.add(
    "arkitscenes",
    Reader("<id>_frames/{lowres_wide,lowres_depth,lowres_wide.traj} (ARKitScenes)", sniff, read),
)
