"""Tiny captures in the true layouts of phone apps and of data sets taken with phones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.capture.distortion import distort
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import CaptureError, ImageError
from fit3d_cli.geometry.rotations import matrices_to_quats

WIDTH, HEIGHT, COUNT = 64, 48, 5
DEPTH_WIDTH, DEPTH_HEIGHT = 32, 24
K = ((50.0, 0.0, 31.0), (0.0, 51.0, 25.0), (0.0, 0.0, 1.0))
FISHEYE = (0.02, -0.01, 0.003, -0.001)
VIDEO = "41069021"
STAMPS = (305.377, 305.477, 305.576, 305.676, 305.776)
POINT = (0.3, -0.2, 0.5)  # world
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
# The world of ScanNet++'s transforms.json, of the laser scan's.
EXCHANGE = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])


def depth_map(index: int) -> np.ndarray:
    """Millimetres; every pixel differs from its neighbours by less than a footprint can hide."""
    rows, columns = np.mgrid[:DEPTH_HEIGHT, :DEPTH_WIDTH]
    depth = (1500 + 100 * index + 2 * rows + columns).astype(np.uint16)
    depth[:3] = 0
    return depth


class Phones:
    """Writers, and the truth about what they write. Poses are those of ``trees``."""

    width, height, count = WIDTH, HEIGHT, COUNT
    K = torch.tensor(K, dtype=torch.float64)
    depth_K = torch.tensor([[25.0, 0, 15.5], [0, 25.5, 12.5], [0, 0, 1]], dtype=torch.float64)
    fisheye = FISHEYE
    point = POINT
    stamps = STAMPS
    depth_map = staticmethod(depth_map)

    def __init__(self, trees: Any) -> None:
        self.trees = trees
        self.viewmats: Tensor = trees.viewmats()
        self.c2w = np.linalg.inv(self.viewmats.numpy())  # OpenCV axes
        self.opengl = self.c2w @ FLIP
        self.writers: dict[str, Callable[[Path], list[str]]] = {
            "polycam": self.polycam,
            "arkitscenes": self.arkitscenes,
            "record3d": self.record3d,
            "scannetpp": self.scannetpp,
            "scannetpp dslr": self.dslr,
            "scannetpp iphone": self.iphone,
        }

    def photo(self, path: Path, index: int, **options: Any) -> None:
        self.trees.save(path, self.trees.texture(index, WIDTH, HEIGHT), **options)

    def polycam(self, root: Path) -> list[str]:
        names = []
        for i, pose in enumerate(self.opengl):
            stem = str(65505281644 + 7 * i)
            for photos, cameras in (
                ("images", "cameras"),
                ("corrected_images", "corrected_cameras"),
            ):
                # What is not corrected lies elsewhere, so that mixing them up shows.
                moved = pose if photos != "images" else pose + 0.01 * (np.indices((4, 4))[1] == 3)
                camera = {f"t_{r}{c}": moved[r, c] for r in range(3) for c in range(4)}
                camera |= {"fx": K[0][0], "fy": K[1][1], "cx": K[0][2], "cy": K[1][2],
                           "blur_score": 32.4, "angular_velocity": 3.4028235e38,
                           "manual_keyframe": False}  # fmt: skip
                if photos == "images":
                    camera |= {"width": WIDTH, "height": HEIGHT}
                self.photo(root / f"keyframes/{photos}/{stem}.jpg", i, quality=95)
                write_json(root / f"keyframes/{cameras}/{stem}.json", camera)
            self.trees.save(root / f"keyframes/depth/{stem}.png", depth_map(i))
            self.trees.save(root / f"keyframes/confidence/{stem}.png",
                            np.full((DEPTH_HEIGHT, DEPTH_WIDTH), 255, np.uint8))  # fmt: skip
            names.append(f"keyframes/corrected_images/{stem}.jpg")
        write_json(root / "mesh_info.json", {"vertexCount": 3})
        return names

    def arkitscenes(self, root: Path) -> list[str]:
        base = root / f"{VIDEO}_frames"
        names, lines = [], []
        for i, stamp in enumerate(STAMPS):
            name = f"{VIDEO}_{stamp:.3f}"
            self.photo(base / f"lowres_wide/{name}.png", i)
            full = np.kron(depth_map(i), np.ones((2, 2), np.uint16))
            self.trees.save(base / f"lowres_depth/{name}.png", full)
            # The intrinsics' times are off by a millisecond now and then.
            camera = (
                base / f"lowres_wide_intrinsics/{VIDEO}_{stamp + 0.001 * (i % 3 - 1):.3f}.pincam"
            )
            camera.parent.mkdir(exist_ok=True)
            camera.write_text(f"{WIDTH} {HEIGHT} {K[0][0]} {K[1][1]} {K[0][2]} {K[1][2]}")
            world_to_camera = self.viewmats[i].numpy()
            numbers = [
                stamp + 0.00049,
                *angle_axis(world_to_camera[:3, :3]),
                *world_to_camera[:3, 3],
            ]
            lines.append(" ".join(f"{v:.12g}" for v in numbers))
            names.append(f"{VIDEO}_frames/lowres_wide/{name}.png")
        (base / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
        (root / f"{VIDEO}_3dod_mesh.ply").write_bytes(b"ply\n")
        return names

    def record3d_metadata(self) -> dict[str, Any]:
        quats = matrices_to_quats(torch.from_numpy(np.ascontiguousarray(self.opengl[:, :3, :3])))
        poses = [
            [x, y, z, w, *pose[:3, 3].tolist()]
            for (w, x, y, z), pose in zip(quats.tolist(), self.opengl, strict=True)
        ]
        return {
            "w": WIDTH, "h": HEIGHT, "dw": DEPTH_WIDTH, "dh": DEPTH_HEIGHT, "fps": 60,
            "K": np.array(K).T.flatten().tolist(), "initPose": [0, 0, 0, 1, 0, 0, 0],
            "frameTimestamps": [i / 60 for i in range(COUNT)], "poses": poses,
        }  # fmt: skip

    def record3d(self, root: Path) -> list[str]:
        for i in range(COUNT):
            self.photo(root / f"rgbd/{i}.jpg", i, quality=95)
            (root / f"rgbd/{i}.depth").write_bytes(b"bvx$")
            self.trees.save(root / f"depth/{i}.png", depth_map(i))
        write_json(root / "metadata", self.record3d_metadata())
        return [f"rgbd/{i}.jpg" for i in range(COUNT)]

    def scannetpp(self, root: Path) -> list[str]:
        names = self.dslr(root / "dslr")
        self.iphone(root / "iphone")
        return [f"dslr/{name}" for name in names]

    def dslr(self, root: Path) -> list[str]:
        """``frames`` and ``test_frames``; a bad frame in each, which is dropped."""
        frames = []
        for i in range(COUNT + 2):
            name = f"DSC0{1752 + i}"
            self.photo(root / f"resized_images/{name}.JPG", i, format="JPEG", quality=95)
            mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
            mask[:, : 4 + i] = 0
            self.trees.save(root / f"resized_anon_masks/{name}.png", mask)
            pose = EXCHANGE @ self.opengl[min(i, COUNT - 1)]
            frames.append({"file_path": f"{name}.JPG", "mask_path": f"{name}.png",
                           "transform_matrix": pose.tolist(), "is_bad": i >= COUNT})  # fmt: skip
        tests = [frames[1], frames[6]]
        top = {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2], "w": WIDTH,
               "h": HEIGHT, **dict(zip(("k1", "k2", "k3", "k4"), FISHEYE, strict=True)),
               "camera_model": "OPENCV_FISHEYE", "has_mask": True, "test_frames": tests,
               "frames": [f for f in frames if f not in tests]}  # fmt: skip
        write_json(root / "nerfstudio/transforms.json", top)
        write_json(root / "train_test_lists.json", {"train": [], "test": [], "has_masks": True})
        self.colmap(root / "colmap", [f"DSC0{1752 + i}.JPG" for i in range(COUNT)],
                    f"OPENCV_FISHEYE {WIDTH} {HEIGHT} {self.lens()} "
                    + " ".join(map(str, FISHEYE)))  # fmt: skip
        return [f"resized_images/DSC0{1752 + i}.JPG" for i in range(COUNT)]

    def undistorted(self, root: Path, photos: str, masks: str) -> None:
        """What the toolbox adds to ``dslr``."""
        top = json.loads((root / "nerfstudio/transforms.json").read_text())
        top |= {"camera_model": "PINHOLE", "k1": 0.0, "k2": 0.0, "k3": 0.0, "k4": 0.0,
                "fl_x": 40.0, "fl_y": 41.0}  # fmt: skip
        write_json(root / "nerfstudio/transforms_undistorted.json", top)
        for frame in top["frames"] + top["test_frames"]:
            self.photo(root / photos / frame["file_path"], 0, format="JPEG")
            mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
            self.trees.save(root / masks / frame["mask_path"], mask)

    def iphone(self, root: Path) -> list[str]:
        entries: dict[str, Any] = {}
        for i, pose in enumerate(self.c2w):
            stem = f"frame_{10 * i:06}"
            self.photo(root / f"rgb/{stem}.jpg", i, quality=95)
            self.trees.save(root / f"depth/{stem}.png", depth_map(i))
            scale = 1920 / WIDTH
            intrinsic = [[v * scale for v in row] for row in K[:2]] + [[0.0, 0.0, 1.0]]
            entries[stem] = {"timestamp": i / 60, "pose": np.eye(4).tolist(),
                             "intrinsic": intrinsic, "aligned_pose": pose.tolist(),
                             "imu": {"gravity": [0, 0, 1]}}  # fmt: skip
        write_json(root / "pose_intrinsic_imu.json", entries)
        return [f"rgb/frame_{10 * i:06}.jpg" for i in range(COUNT)]

    def colmap(self, model: Path, names: list[str], camera: str) -> None:
        """A text model in the frame of the laser scan, with two points."""
        model.mkdir(parents=True)
        (model / "cameras.txt").write_text(f"# cameras\n1 {camera}\n")
        quats = matrices_to_quats(self.viewmats[:, :3, :3])
        lines = []
        for i, name in enumerate(names):
            numbers = [*quats[i].tolist(), *self.viewmats[i, :3, 3].tolist()]
            lines += [f"{i + 1} {' '.join(f'{v:.17g}' for v in numbers)} 1 {name}", ""]
        (model / "images.txt").write_text("\n".join(lines) + "\n")
        (model / "points3D.txt").write_text("1 0.5 -1 2 255 128 0 0.3 1 0\n2 1 2 3 1 2 3 0.1\n")

    @staticmethod
    def lens() -> str:
        return f"{K[0][0]} {K[1][1]} {K[0][2]} {K[1][2]}"

    def pixel(self, view: Any) -> list[float]:
        """Where a view shows ``POINT``, lens distortion included."""
        x, y, z, _ = (view.viewmat @ torch.tensor([*POINT, 1.0], dtype=torch.float64)).tolist()
        plane = torch.tensor([x / z, y / z], dtype=torch.float64)
        if view.distortion is not None:
            plane = distort(plane, view.distortion)
        return [float(view.K[i, i] * plane[i] + view.K[i, 2]) for i in range(2)]


def angle_axis(rotation: np.ndarray) -> list[float]:
    angle = np.arccos((np.trace(rotation) - 1) / 2)
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                     rotation[1, 0] - rotation[0, 1]])  # fmt: skip
    length = np.linalg.norm(axis)
    return (axis / length * angle).tolist() if length > 0 else [0.0, 0.0, 0.0]


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def phones(trees: Any) -> Phones:
    return Phones(trees)


@pytest.fixture
def told() -> Callable[[Path, str, str], None]:
    """Reading a capture and its frames fails with one line that names a file and a remedy."""

    def check(root: Path, name: str, words: str) -> None:
        with pytest.raises((CaptureError, ImageError)) as caught:
            for view in read_capture(root).views:
                load_frame(view, view.width, view.height)
        line = str(caught.value)
        assert name in line and words in line and "\n" not in line, line
        assert caught.value.hint and caught.value.exit_code == 2

    return check


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], object]], None]:
    """Changes a JSON file."""

    def change(path: Path, action: Callable[[Any], object]) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        action(data)
        path.write_text(json.dumps(data), encoding="utf-8")

    return change
