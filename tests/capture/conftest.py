"""Tiny captures of every layout, drawn by formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fit3d_cli.geometry.rotations import look_at, matrices_to_quats

WIDTH, HEIGHT, COUNT = 48, 32, 5
FX, FY, CX, CY = 40.0, 41.0, 23.5, 16.5
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def viewmats() -> Tensor:
    angles = torch.linspace(-0.4, 0.4, COUNT, dtype=torch.float64)
    eyes = torch.stack([2 * angles.sin(), 0.1 * angles, -2 * angles.cos()], dim=1)
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    return look_at(eyes, torch.zeros_like(eyes), up)


def poses() -> list[list[list[float]]]:
    """Camera to world, OpenCV axes."""
    return torch.linalg.inv(viewmats()).tolist()


def texture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + c) + index) * np.cos(y / (4 - c) - index) for c in range(3)]
    return np.stack([(127 + 120 * w) for w in waves], axis=-1).astype(np.uint8)


def depth_map(index: int) -> np.ndarray:
    depth = np.full((HEIGHT, WIDTH), 1500 + 10 * index, np.uint16)
    depth[:4] = 0
    depth[-1] = 65535
    return depth


def save(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write_rgbd(root: Path) -> list[str]:
    root.mkdir(parents=True)
    rows = [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
    (root / "intrinsics.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    for i, pose in enumerate(poses()):
        stem = f"frame-{i * 5:06}"
        save(root / f"{stem}.color.jpg", texture(i), quality=95)
        if i != 1:
            save(root / f"{stem}.depth.png", depth_map(i))
        text = "\n".join(" ".join(f"{v:.17g}" for v in row) for row in pose)
        (root / f"{stem}.pose.txt").write_text(text)
    return [f"frame-{i * 5:06}.color.jpg" for i in range(COUNT)]


def write_transforms(root: Path) -> list[str]:
    frames = []
    for i, pose in enumerate(poses()):
        name = f"images/é {i}.view.png"
        save(root / name, texture(i))
        save(root / f"masks/{i}.png", (np.arange(WIDTH) > i).astype(np.uint8)[None] * np.full(
            (HEIGHT, 1), 255, np.uint8))  # fmt: skip
        save(root / f"depth/{i}.png", depth_map(i))
        c2w = (torch.tensor(pose, dtype=torch.float64) @ FLIP).tolist()
        frames.append({"file_path": f"./{name}", "mask_path": f"masks/{i}.png",
                       "depth_file_path": f"depth/{i}.png", "transform_matrix": c2w})  # fmt: skip
    top = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT,
           "k1": 0.02, "k2": -0.01, "p1": 1e-3, "p2": -2e-3, "camera_model": "OPENCV",
           "ply_file_path": "points.ply", "frames": frames}  # fmt: skip
    (root / "transforms.json").write_text(json.dumps(top), encoding="utf-8")
    (root / "points.ply").write_text(
        "ply\nformat ascii 1.0\ncomment c\nelement vertex 2\nproperty float x\nproperty float y\n"
        "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
        "end_header\n0.5 -1 2 255 128 0\n1 2 3.25 1 2 3\n"
    )
    return [f"images/é {i}.view.png" for i in range(COUNT)]


def write_cameras_json(root: Path) -> list[str]:
    frames: list[dict[str, Any]] = []
    for i, pose in enumerate(poses()):
        save(root / f"images/v {i}.png", texture(i))
        save(root / f"masks/v {i}.png", np.full((HEIGHT, WIDTH), 1, np.uint8))
        frames.append({"file": f"images/v {i}.png", "mask": f"masks/v {i}.png",
                       "c2w_opencv": pose, "near": 1.0, "far": 3.0})  # fmt: skip
    frames[1]["fx"] = FX + 1
    top = {"w": WIDTH, "h": HEIGHT, "fx": FX, "fy": FY, "cx": CX, "cy": CY, "frames": frames}
    (root / "cameras.json").write_text(json.dumps(top))
    return [f"images/v {i}.png" for i in range(COUNT)]


def write_colmap(root: Path) -> list[str]:
    """Text model, numbers out of order, as COLMAP leaves them."""
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(
        f"# Camera list\n7 OPENCV {WIDTH} {HEIGHT} {FX} {FY} {CX} {CY} 0.02 -0.01 0.001 -0.002\n"
    )
    lines = ["# Image list"]
    quats = matrices_to_quats(viewmats()[:, :3, :3])
    for i in reversed(range(COUNT)):
        save(root / f"images/left/im {i}.png", texture(i))
        numbers = [*quats[i].tolist(), *viewmats()[i, :3, 3].tolist()]
        pose = " ".join(f"{v:.17g}" for v in numbers)
        lines += [f"{i + 11} {pose} 7 left/im {i}.png", "" if i % 2 else "1.5 2.5 -1 3 4 1"]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text(
        "# points\n1 0.5 -1 2 255 128 0 0.3 11 0 12 1\n5 1 2 3.25 1 2 3 0.1\n"
    )
    return [f"images/left/im {i}.png" for i in range(COUNT)]


WRITERS: dict[str, Callable[[Path], list[str]]] = {
    "rgbd": write_rgbd,
    "transforms": write_transforms,
    "cameras-json": write_cameras_json,
    "colmap": write_colmap,
}


class Trees:
    """Writers and the truth about what they write."""

    width, height, count = WIDTH, HEIGHT, COUNT
    K = torch.tensor([[FX, 0, CX], [0, FY, CY], [0, 0, 1]], dtype=torch.float64)
    lens = (0.02, -0.01, 1e-3, -2e-3, 0.0, 0.0, 0.0, 0.0)
    layouts = tuple(WRITERS)
    texture = staticmethod(texture)
    viewmats = staticmethod(viewmats)
    save = staticmethod(save)

    @staticmethod
    def write(layout: str, root: Path) -> list[str]:
        """Make the tree; the expected view names, sorted."""
        return WRITERS[layout](root)


@pytest.fixture
def trees() -> Trees:
    return Trees()
