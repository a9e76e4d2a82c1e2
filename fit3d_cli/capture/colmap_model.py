"""The files of a COLMAP sparse model, binary and text, with and without rigs.

Written from COLMAP's format documentation. All binary values are little endian; quaternions
are wxyz and poses world to camera with OpenCV axes. Since COLMAP 3.12 a model may come with
``rigs`` (fixed sensor-from-rig poses) and ``frames`` (rig-from-world poses and the images taken
together); where both are there they decide, as in COLMAP itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import SparsePoints
from fit3d_cli.capture.files import MOST_PIXELS, RESTORE, read_bytes, read_text
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.rotations import quats_to_matrices

# COLMAP's camera models: name and number of parameters, by the number used in cameras.bin.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5),
    4: ("OPENCV", 8), 5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4), 9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16), 12: ("SIMPLE_DIVISION", 4), 13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3), 15: ("FISHEYE", 4), 16: ("EUCM", 6), 17: ("EQUIRECTANGULAR", 2),
}  # fmt: skip
_COUNTS = dict(MODELS.values())
_CAMERA = 0  # COLMAP's sensor type; others (IMU) take no photos
Pose = tuple[float, ...]  # qw qx qy qz tx ty tz


@dataclass(frozen=True)
class ColmapCamera:
    """One line of ``cameras``: COLMAP's model name, size in pixels, parameters."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One registered image: its number, name, camera number and world-to-camera pose."""

    image_id: int
    name: str
    camera_id: int
    pose: Pose


def model_file(folder: Path, stem: str) -> Path | None:
    """``<stem>.bin``, else ``<stem>.txt``, else None."""
    for suffix in (".bin", ".txt"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    return None


def is_model(folder: Path) -> bool:
    """Whether the folder holds cameras and images; False where it cannot be looked into."""
    try:
        return all(model_file(folder, stem) is not None for stem in ("cameras", "images"))
    except OSError:
        return False


def pose_matrix(pose: Pose) -> Tensor:
    """``[4, 4]`` float64 of a quaternion (any non-zero length) and a translation.

    A zero or non-finite quaternion gives NaN, for the common checks to drop.
    """
    values = torch.tensor(pose, dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = quats_to_matrices(values[None, :4])[0]
    matrix[:3, 3] = values[4:]
    if not float(values[:4].norm()) > 0:
        matrix[:3, :3] = torch.nan
    return matrix


class _Cursor:
    """Reads a binary file front to back; running off its end is a CaptureError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_bytes(path)
        self.at = 0

    def take(self, layout: str) -> tuple[float, ...]:
        packed = "<" + layout
        start = self.skip(struct.calcsize(packed))
        return struct.unpack_from(packed, self.data, start)

    def whole(self, layout: str) -> int:
        return int(self.take(layout)[0])

    def skip(self, size: int) -> int:
        start = self.at
        if start + size > len(self.data):
            raise CaptureError(
                f"ends at byte {len(self.data)}, in the middle of an entry",
                where=self.path,
                hint=RESTORE,
            )
        self.at += size
        return start

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            self.skip(len(self.data) + 1)
        raw = self.data[self.at : end]
        self.at = end + 1
        return raw.decode("utf-8", "surrogateescape")


def _lines(path: Path) -> Iterator[list[str]]:
    """The words of each line that is neither empty nor a comment."""
    for line in read_text(path).splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words


def _damaged(path: Path, line: str) -> CaptureError:
    return CaptureError(f"line {line[:60]!r} is not understood", where=path, hint=RESTORE)


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """The cameras by number.

    Raises:
        CaptureError: Damaged, or a camera model without a known number of parameters.
    """
    cameras = {}
    if path.suffix == ".bin":
        cursor = _Cursor(path)
        for _ in range(cursor.whole("Q")):
            camera_id, model_id, width, height = map(int, cursor.take("IiQQ"))
            if model_id not in MODELS:
                raise CaptureError(
                    f"camera {camera_id} has the unknown model {model_id}",
                    where=path,
                    hint="export the model with colmap image_undistorter",
                )
            name, count = MODELS[model_id]
            camera = ColmapCamera(name, width, height, cursor.take(f"{count}d"))
            cameras[camera_id] = _sized(camera, path)
        return cameras
    for words in _lines(path):
        try:
            camera = ColmapCamera(
                words[1], int(words[2]), int(words[3]), tuple(map(float, words[4:]))
            )
            camera_id = int(words[0])
        except (ValueError, IndexError) as error:
            raise _damaged(path, " ".join(words)) from error
        if len(camera.params) != _COUNTS.get(camera.model, len(camera.params)):
            raise _damaged(path, " ".join(words))
        cameras[camera_id] = _sized(camera, path)
    return cameras


def _sized(camera: ColmapCamera, path: Path) -> ColmapCamera:
    if not (0 < camera.width < MOST_PIXELS and 0 < camera.height < MOST_PIXELS):
        raise CaptureError(
            f"a camera of {camera.width}x{camera.height} pixels", where=path, hint=RESTORE
        )
    return camera


def count_images(path: Path) -> int:
    """How many images a model registers, without reading them all where that is possible."""
    return _Cursor(path).whole("Q") if path.suffix == ".bin" else len(read_images(path))


def read_images(path: Path) -> list[ColmapImage]:
    """The registered images in file order; keypoints are skipped.

    Raises:
        CaptureError: Damaged.
    """
    images = []
    if path.suffix == ".bin":
        cursor = _Cursor(path)
        for _ in range(cursor.whole("Q")):
            image_id, *numbers = cursor.take("I7dI")
            name = cursor.name()
            cursor.skip(cursor.whole("Q") * 24)  # x, y, point number
            images.append(ColmapImage(int(image_id), name, int(numbers[7]), tuple(numbers[:7])))
        return images
    # Two lines per image, and the second, the keypoints, may be empty.
    lines = iter(read_text(path).split("\n"))
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(maxsplit=9)
        try:
            pose = tuple(map(float, words[1:8]))
            image = ColmapImage(int(words[0]), words[9].rstrip("\r"), int(words[8]), pose)
        except (ValueError, IndexError) as error:
            raise _damaged(path, line) from error
        images.append(image)
        next(lines, "")
    return images


def read_points(path: Path) -> SparsePoints | None:
    """Coordinates and colours of the finite points, in file order; None if there is none.

    Raises:
        CaptureError: Damaged.
    """
    rows: list[tuple[float, ...]] = []
    if path.suffix == ".bin":
        cursor = _Cursor(path)
        for _ in range(cursor.whole("Q")):
            entry = cursor.take("Q3d3BdQ")
            cursor.skip(int(entry[8]) * 8)  # track: image number, keypoint index
            rows.append(entry[1:7])
    else:
        for words in _lines(path):
            try:
                rows.append(tuple(map(float, words[1:7])))
            except ValueError as error:
                raise _damaged(path, " ".join(words)) from error
            if len(rows[-1]) != 6 or not all(0 <= c <= 255 for c in rows[-1][3:]):
                raise _damaged(path, " ".join(words))
    if not rows:
        return None
    values = torch.tensor(rows, dtype=torch.float64)
    values = values[torch.isfinite(values).all(dim=1)]
    return SparsePoints(values[:, :3], values[:, 3:].to(torch.uint8)) if len(values) else None


def read_rig_poses(rigs: Path, frames: Path) -> dict[int, Tensor]:
    """World-to-camera matrices by image number, from rigs and frames.

    ``cam_from_world = sensor_from_rig @ rig_from_world``, the former being the identity for the
    rig's reference sensor. Sensors without a pose are left out.

    Raises:
        CaptureError: Damaged.
    """
    sensors = dict(_sensor_poses(rigs))
    poses = {}
    for rig_id, pose, data in _frames(frames):
        rig_from_world = pose_matrix(pose)
        for kind, sensor_id, image_id in data:
            sensor_from_rig = sensors.get((rig_id, kind, sensor_id))
            if kind == _CAMERA and sensor_from_rig is not None:
                poses[image_id] = sensor_from_rig @ rig_from_world
    return poses


def _sensor_poses(path: Path) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
    identity = torch.eye(4, dtype=torch.float64)
    if path.suffix == ".bin":
        cursor = _Cursor(path)
        for _ in range(cursor.whole("Q")):
            rig_id, count = map(int, cursor.take("II"))
            for index in range(count):
                kind, sensor_id = map(int, cursor.take("iI"))
                if index == 0:
                    yield (rig_id, kind, sensor_id), identity
                elif cursor.whole("B"):
                    yield (rig_id, kind, sensor_id), pose_matrix(cursor.take("7d"))
        return
    for words in _lines(path):
        rest = iter(words)
        try:
            rig_id, count = int(next(rest)), int(next(rest))
            for index in range(count):
                key = (rig_id, _sensor_kind(next(rest)), int(next(rest)))
                if index == 0:
                    yield key, identity
                elif int(next(rest)):
                    yield key, pose_matrix(tuple(float(next(rest)) for _ in range(7)))
        except (ValueError, StopIteration, RuntimeError) as error:
            raise _damaged(path, " ".join(words)) from error


def _frames(path: Path) -> Iterator[tuple[int, Pose, list[tuple[int, int, int]]]]:
    if path.suffix == ".bin":
        cursor = _Cursor(path)
        for _ in range(cursor.whole("Q")):
            _, rig, *values = cursor.take("II7d")
            entries = [cursor.take("iIQ") for _ in range(cursor.whole("I"))]
            yield int(rig), tuple(values), [(int(a), int(b), int(c)) for a, b, c in entries]
        return
    for words in _lines(path):
        try:
            rig_id, pose = int(words[1]), tuple(map(float, words[2:9]))
            data = [
                (_sensor_kind(words[i]), int(words[i + 1]), int(words[i + 2]))
                for i in range(10, 10 + 3 * int(words[9]), 3)
            ]
        except (ValueError, IndexError) as error:
            raise _damaged(path, " ".join(words)) from error
        yield rig_id, pose, data


def _sensor_kind(word: str) -> int:
    return _CAMERA if word == "CAMERA" else -1
