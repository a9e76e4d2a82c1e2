"""TUM RGB-D: ``rgb.txt``, ``depth.txt`` and ``groundtruth.txt``, joined by their timestamps.

Lines of the first two are ``timestamp file``, those of the third ``timestamp tx ty tz qx qy qz
qw``: camera to world, metres, OpenCV axes, the quaternion's real part last. Depth is a 16-bit PNG,
5000 units per metre, registered to the photo by the driver. A photo gets the depth map and the
pose that are at most 0.02 s away, as the benchmark's own tool joins them; the pose is interpolated
between its two neighbours in time.

The calibration is ``calibration.txt`` if there is one (``fx fy cx cy``, then, if wanted, ``k1 k2 p1
p2 k3``), else that of the camera which the folder names: ``freiburg1`` (fr1), ``freiburg2`` (fr2)
or ``freiburg3`` (fr3), with the benchmark's numbers. The photos of the first two are distorted
(OpenCV's model), those of the third are not. Principal points count pixel centres at whole numbers,
as OpenCV calibrates; 0.5 is added.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, Distortion, Reader, View
from fit3d_cli.capture.distortion import OPENCV, make_distortion
from fit3d_cli.capture.files import (
    RESTORE,
    intrinsics,
    invert_pose,
    locate,
    numbers,
    read_text,
    stored_size,
)
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.rotations import quats_to_matrices

TOLERANCE = 0.02  # seconds
DEPTH_SCALE = 5000.0
CALIBRATION = "calibration.txt"
# https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats: fx fy cx cy, k1 k2 p1 p2 k3
CAMERAS = {
    1: (517.306408, 516.469215, 318.643040, 255.313989,
        0.262383, -0.953104, -0.005358, 0.002628, 1.163314),
    2: (520.908620, 521.007327, 325.141442, 249.701764,
        0.231222, -0.784899, -0.003257, -0.000105, 0.917205),
    3: (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),
}  # fmt: skip
_CAMERA = re.compile(r"(?:freiburg|(?<![a-z0-9])fr)_?([123])(?![0-9])")


def sniff(path: Path) -> bool:
    """Whether the lists of photos and poses are there."""
    try:
        return (path / "rgb.txt").is_file() and (path / "groundtruth.txt").is_file()
    except OSError:
        return False


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged, or nothing says which camera it was.
        ImageError: A photo's header cannot be read.
    """
    photos = _files(path, "rgb.txt")
    depths = _files(path, "depth.txt") if (path / "depth.txt").is_file() else []
    track = _track(path / "groundtruth.txt")
    matched = _join([time for time, _ in photos], [time for time, _ in depths])
    K, lens, size, note = _camera(path)
    views, unposed = [], 0
    for index, (time, stated) in enumerate(photos):
        pose = track.at(time)
        if pose is None:
            unposed += 1
            continue
        name, place = locate(path, stated, path / "rgb.txt")
        size = size or stored_size(place)
        depth = None
        if index in matched:
            depth = locate(path, depths[matched[index]][1], path / "depth.txt")[1]
        views.append(
            View(
                name=name,
                image_path=place,
                viewmat=invert_pose(pose),
                K=K.clone(),
                width=size[0],
                height=size[1],
                distortion=lens,
                depth_path=depth,
                depth_scale=DEPTH_SCALE,
            )
        )
    dropped = {f"no pose within {TOLERANCE:g} s": unposed} if unposed else {}
    notes = [note]
    if depths and len(matched) < len(photos):
        lone = len(photos) - len(matched)
        notes.append(f"{lone} of {len(photos)} photos have no depth within {TOLERANCE:g} s")
    return Capture(
        path.name, path, "tum", tuple(views), metric=True, dropped=dropped, notes=tuple(notes)
    )


@dataclass(frozen=True)
class _Track:
    """Poses over time: times sorted, positions ``[N, 3]``, unit quaternions (wxyz) ``[N, 4]``."""

    times: list[float]
    positions: Tensor
    quats: Tensor

    def at(self, time: float) -> Tensor | None:
        """``[4, 4]`` camera to world, or None if no pose is near enough in time."""
        after = bisect.bisect_left(self.times, time)
        near = [i for i in (after - 1, after) if 0 <= i < len(self.times)]
        if min((abs(self.times[i] - time) for i in near), default=1.0) > TOLERANCE:
            return None
        first, last = near[0], near[-1]
        gap = self.times[last] - self.times[first]
        if gap > 2 * TOLERANCE:  # a hole in the track: nothing to interpolate over
            first = last = min(near, key=lambda i: abs(self.times[i] - time))
        share = (time - self.times[first]) / gap if first != last else 0.0
        a, b = self.quats[first], self.quats[last]
        b = -b if float(a @ b) < 0 else b
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = quats_to_matrices(torch.lerp(a, b, share)[None])[0]
        pose[:3, 3] = torch.lerp(self.positions[first], self.positions[last], share)
        return pose


def _rows(path: Path, fields: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and words of the lines that are no comments."""
    for count, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != fields:
            raise CaptureError(
                f"line {count}: {len(words)} words, expected {layout}", where=path, hint=RESTORE
            )
        yield count, words


def _files(root: Path, name: str) -> list[tuple[float, str]]:
    """Timestamps and files of a list, in the order of time."""
    path = root / name
    files: dict[float, str] = {}
    for count, (stamp, stated) in _rows(path, 2, "timestamp and file name"):
        time = _time(stamp, path, count)
        if time in files:
            raise CaptureError(
                f"line {count}: timestamp {stamp} stands there twice",
                where=path,
                hint="keep one file per timestamp",
            )
        files[time] = stated
    return sorted(files.items())


def _track(path: Path) -> _Track:
    poses: dict[float, list[float]] = {}
    for count, words in _rows(path, 8, "timestamp tx ty tz qx qy qz qw"):
        time = _time(words[0], path, count)
        values = numbers(words[1:], path, count)
        if poses.setdefault(time, values) != values:
            raise CaptureError(
                f"line {count}: timestamp {words[0]} has two poses",
                where=path,
                hint="keep one pose per timestamp",
            )
    times = sorted(poses)
    table = torch.tensor([poses[t] for t in times], dtype=torch.float64).reshape(-1, 7)
    # A quaternion without length has no direction: NaN, which the checks of poses count.
    quats = table[:, [6, 3, 4, 5]]
    return _Track(times, table[:, :3], quats / quats.norm(dim=1, keepdim=True))


def _time(word: str, path: Path, line: int) -> float:
    time = numbers([word], path, line)[0]
    if not abs(time) < float("inf"):
        raise CaptureError(f"line {line}: {word} is no time", where=path, hint=RESTORE)
    return time


def _join(times: list[float], others: list[float]) -> dict[int, int]:
    """Pairs of indices of two sorted lists, closest first, each used once."""
    pairs = []
    for i, time in enumerate(times):
        first = bisect.bisect_left(others, time - TOLERANCE)
        last = bisect.bisect_right(others, time + TOLERANCE)
        pairs += [(abs(others[j] - time), i, j) for j in range(first, last)]
    joined: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(pairs):
        if i not in joined and j not in taken:
            joined[i] = j
            taken.add(j)
    return joined


def _camera(path: Path) -> tuple[Tensor, Distortion | None, tuple[int, int] | None, str]:
    """K, lens, the size that they hold for (None = the photos'), and a note on their origin."""
    place = path / CALIBRATION
    size: tuple[int, int] | None = None
    if place.is_file():
        values = tuple(numbers(read_text(place, 1 << 16).split(), place))
        if not 4 <= len(values) <= 9:
            raise CaptureError(
                f"{len(values)} numbers, expected fx fy cx cy, then up to k1 k2 p1 p2 k3",
                where=place,
                hint="write them in this order, in pixels of the stored photos",
            )
        note = f"camera of {CALIBRATION}"
    else:
        found = next((m for n in (path.name, path.parent.name) if (m := _CAMERA.search(n))), None)
        if found is None:
            raise CaptureError(
                "no calibration, and the name says neither freiburg1, freiburg2 nor freiburg3",
                where=path,
                hint=f"write fx fy cx cy into {CALIBRATION}",
            )
        values, size = CAMERAS[int(found[1])], (640, 480)
        note = f"published camera of freiburg{found[1]}"
    fx, fy, cx, cy, *rest = values
    lens = make_distortion(OPENCV, tuple(rest))
    return intrinsics(fx, fy, cx + 0.5, cy + 0.5), lens, size, note


READERS.add(
    "tum",
    Reader("rgb.txt, depth.txt, groundtruth.txt with timestamps (TUM RGB-D)", sniff, read),
)
