"""Tiny scans of one slanted wall, in the true layouts of the RGB-D data sets."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The wall: NORMAL . x = OFFSET, about two metres in front of the cameras.
NORMAL, OFFSET = np.array([0.3, -0.2, 1.0]), 2.0
COUNT = 4
# What the photos' camera looks like, pixel centres at +0.5: width, height, K.
CAMERAS = {
    "tum": (64, 48, (52.0, 53.0, 33.0, 23.0)),
    "7-scenes": (640, 480, (525.0, 525.0, 320.0, 240.0)),
    "replica": (60, 34, (30.0, 30.0, 30.0, 17.0)),
    "scannet": (96, 72, (88.0, 87.0, 49.0, 35.5)),
}
DEPTH_CAMERA = (48, 36, (44.0, 44.5, 23.0, 18.5))  # ScanNet's
# Where the depth camera sits beside ScanNet's rig, and the photos' camera: rig to camera.
DEPTH_FROM_RIG = np.array([[1.0, 0, 0, 0.02], [0, 1, 0, 0], [0, 0, 1, -0.01], [0, 0, 0, 1]])
COLOR_FROM_RIG = np.array(
    [[1.0, 0, 0, -0.01], [0, 0.99995, -0.0099998, 0], [0, 0.0099998, 0.99995, 0], [0, 0, 0, 1]]
)
PHOTO_FROM_DEPTH = np.array([[1.0, 0, 0, -0.025], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def pose(index: float) -> np.ndarray:
    """Camera to world of the photos (of the rig for ScanNet, of depth for 7-Scenes)."""
    turn, tilt = 0.1 * index - 0.15, 0.03 * index
    about_y = np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    made = np.eye(4)
    made[:3, :3] = about_y @ about_x
    made[:3, 3] = [0.1 * index, -0.05 * index, 0.02 * index]
    return made


def cast(world_from_camera: np.ndarray, camera: tuple, units: float) -> np.ndarray:
    """16-bit depth of the wall along the optical axis."""
    width, height, (fx, fy, cx, cy) = camera
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    rays = rays @ world_from_camera[:3, :3].T
    z = (OFFSET - NORMAL @ world_from_camera[:3, 3]) / (rays @ NORMAL)
    return np.round(z * units).astype(np.uint16)


def photo(index: int, width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] * (8 / width)
    waves = [np.sin(x + c + index) * np.cos(y - c) for c in range(3)]
    return np.stack([127 + 120 * wave for wave in waves], -1).astype(np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compress_level": 1} if path.suffix == ".png" else {}
    Image.fromarray(array).save(path, **options)


def text(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{v:.9g}" for v in row) for row in matrix) + "\n"


def pinhole(values: tuple[float, ...], shift: float = 0.0, side: int = 3) -> np.ndarray:
    fx, fy, cx, cy = values
    made = np.eye(side)
    made[0, 0], made[1, 1], made[0, 2], made[1, 2] = fx, fy, cx + shift, cy + shift
    return made


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """qx qy qz qw of a small rotation."""
    w = np.sqrt(1 + np.trace(rotation)) / 2
    a = rotation - rotation.T
    return np.array([a[2, 1] / (4 * w), a[0, 2] / (4 * w), a[1, 0] / (4 * w), w])


def write_tum(root: Path) -> None:
    """Photos at t, depth 7 ms later, poses at 100 Hz that a photo falls between."""
    camera = CAMERAS["tum"]
    rgb, depth, track = ["# color images", "# file: 'x.bag'"], ["# depth maps"], ["# tx ty tz"]
    for i in range(COUNT):
        stamp = 1305031102.175304 + i
        save(root / f"rgb/{stamp:.6f}.png", photo(i, *camera[:2]))
        save(root / f"depth/{stamp + 0.007:.6f}.png", cast(pose(i), camera, 5000))
        rgb.append(f"{stamp:.6f} rgb/{stamp:.6f}.png")
        depth.append(f"{stamp + 0.007:.6f} depth/{stamp + 0.007:.6f}.png")
        for step in (-12, -4, 6, 15):  # milliseconds; motion is a whole pose per 100 s
            at = pose(i + step / 1e5)
            values = [*at[:3, 3], *quaternion(at[:3, :3])]
            track.append(f"{stamp + step / 1000:.4f} " + " ".join(f"{v:.7f}" for v in values))
    (root / "rgb.txt").write_text("\n".join(rgb) + "\n")
    (root / "depth.txt").write_text("\n".join(depth) + "\n")
    (root / "groundtruth.txt").write_text("\n".join(track) + "\n")
    fx, fy, cx, cy = camera[2]
    (root / "calibration.txt").write_text(f"{fx} {fy} {cx - 0.5} {cy - 0.5}\n")


@cache
def kinect_pictures(index: int) -> tuple[bytes, bytes]:
    """Photo and depth as PNG, of a size that takes time to make."""
    width, height, _ = CAMERAS["7-scenes"]
    # The lens of depth, whose pose is given: focal length 585.
    depth = cast(pose(index), (width, height, (585.0, 585.0, 320.0, 240.0)), 1000)
    depth[:40] = 65535
    made = []
    for array in (photo(index, width, height), depth):
        buffer = BytesIO()
        Image.fromarray(array).save(buffer, format="PNG", compress_level=1)
        made.append(buffer.getvalue())
    return made[0], made[1]


def write_sequence(root: Path, indices: list[int]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number, i in enumerate(indices):
        stem = root / f"frame-{number:06}"
        color, depth = kinect_pictures(i)
        stem.with_suffix(".color.png").write_bytes(color)
        stem.with_suffix(".depth.png").write_bytes(depth)
        stem.with_suffix(".pose.txt").write_text(
            "\n".join("\t".join(f" {v: .7e}" for v in row) + "\t" for row in pose(i)) + "\n"
        )


def write_seven_scenes(root: Path) -> None:
    write_sequence(root / "seq-01", [0, 1])
    write_sequence(root / "seq-12", [2, 3])
    (root / "TrainSplit.txt").write_text("sequence1\n")
    (root / "TestSplit.txt").write_text("sequence12\n")


def write_replica(root: Path) -> None:
    camera = CAMERAS["replica"]
    width, height, (fx, fy, cx, cy) = camera
    for i in range(COUNT):
        save(root / f"results/frame{i:06}.jpg", photo(i, width, height))
        save(root / f"results/depth{i:06}.png", cast(pose(i), camera, 6553.5))
    lines = [" ".join(f"{v:.18e}" for v in pose(i).flatten()) for i in range(COUNT)]
    (root / "traj.txt").write_text("\n".join(lines) + "\n")
    params = {"w": width, "h": height, "fx": fx, "fy": fy, "cx": cx - 0.5, "cy": cy - 0.5,
              "scale": 6553.5}  # fmt: skip
    (root.parent / "cam_params.json").write_text(json.dumps({"camera": params}))


def write_scannet(root: Path) -> None:
    """Numbers that sort wrongly as text: 2, 9, 10, 11."""
    for i, number in enumerate((2, 9, 10, 11)):
        save(root / f"color/{number}.jpg", photo(i, *CAMERAS["scannet"][:2]))
        world_from_depth = pose(i) @ np.linalg.inv(DEPTH_FROM_RIG)
        save(root / f"depth/{number}.png", cast(world_from_depth, DEPTH_CAMERA, 1000))
        (root / "pose").mkdir(exist_ok=True)
        (root / f"pose/{number}.txt").write_text(text(pose(i)))
    (root / "intrinsic").mkdir()
    for name, matrix in {
        "intrinsic_color": pinhole(CAMERAS["scannet"][2], -0.5, 4),
        "intrinsic_depth": pinhole(DEPTH_CAMERA[2], -0.5, 4),
        "extrinsic_color": COLOR_FROM_RIG,
        "extrinsic_depth": DEPTH_FROM_RIG,
    }.items():
        (root / f"intrinsic/{name}.txt").write_text(text(matrix))


def jpeg(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def sens_header(
    *, version: int = 4, name: bytes = b"StructureSensor", name_bytes: int | None = None,
    kinds: tuple[int, int] = (2, 1), sizes: tuple[int, int, int, int] = (96, 72, 48, 36),
    scale: float = 1000.0, frames: int = COUNT, focal: float = 88.0,
) -> bytes:  # fmt: skip
    matrices = (
        pinhole((focal, *CAMERAS["scannet"][2][1:]), -0.5, 4), COLOR_FROM_RIG,
        pinhole(DEPTH_CAMERA[2], -0.5, 4), DEPTH_FROM_RIG,
    )  # fmt: skip
    length = len(name) if name_bytes is None else name_bytes
    return (
        struct.pack("<IQ", version, length)
        + name
        + b"".join(m.astype("<f4").tobytes() for m in matrices)
        + struct.pack("<2i4IfQ", *kinds, *sizes, scale, frames)
    )


def sens_frame(
    index: int, kinds: tuple[int, int] = (2, 1), *, lost: bool = False, scale: float = 1000.0,
    color: bytes | None = None, depth: bytes | None = None,
    sizes: tuple[int, int] | None = None, at: np.ndarray | None = None,
) -> bytes:  # fmt: skip
    matrix = np.full((4, 4), -np.inf) if lost else pose(index) if at is None else at
    if color is None:
        picture = photo(index, 96, 72)
        color = picture.tobytes() if kinds[0] == 0 else jpeg(picture)
    if depth is None:
        world_from_depth = pose(index) @ np.linalg.inv(DEPTH_FROM_RIG)
        depth = cast(world_from_depth, DEPTH_CAMERA, scale).astype("<u2").tobytes()
        depth = zlib.compress(depth) if kinds[1] == 1 else depth
    stated = sizes or (len(color), len(depth))
    return matrix.astype("<f4").tobytes() + struct.pack("<4Q", 1, 2, *stated) + color + depth


def sens_file(path: Path, kinds: tuple[int, int] = (2, 1), scale: float = 1000.0) -> Path:
    """Four frames, the second without a pose before it, and inertial data behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [sens_frame(i, kinds, scale=scale) for i in range(COUNT)]
    frames.insert(1, sens_frame(0, kinds, lost=True, scale=scale))
    header = sens_header(kinds=kinds, scale=scale, frames=len(frames))
    path.write_bytes(header + b"".join(frames) + struct.pack("<Q", 1) + bytes(128))
    return path


WRITERS: dict[str, Callable[[Path], None]] = {
    "tum": write_tum,
    "7-scenes": write_seven_scenes,
    "replica": write_replica,
    "scannet": write_scannet,
}


class Scans:
    """Writers and the truth about what they write."""

    layouts, count = tuple(WRITERS), COUNT
    normal, offset = NORMAL, OFFSET
    color_from_rig = COLOR_FROM_RIG
    cameras = CAMERAS
    pose = staticmethod(pose)
    photo = staticmethod(photo)
    jpeg = staticmethod(jpeg)
    write_sequence = staticmethod(write_sequence)
    sens_file = staticmethod(sens_file)
    sens_frame = staticmethod(sens_frame)
    sens_header = staticmethod(sens_header)

    @staticmethod
    def write(layout: str, root: Path) -> Path:
        root.mkdir(parents=True)
        WRITERS[layout](root)
        return root

    @staticmethod
    def viewmat(layout: str, index: int) -> np.ndarray:
        """World to camera of a photo."""
        beside = {"scannet": COLOR_FROM_RIG, "7-scenes": PHOTO_FROM_DEPTH}.get(layout, np.eye(4))
        return beside @ np.linalg.inv(pose(index))


@pytest.fixture
def scans() -> Scans:
    return Scans()
