"""A small world to break: captures of every layout, a model, a workspace with two lifted scenes.

No fixtures here: ``tests/reliability/refusals.py`` uses it without pytest.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fit3d_cli import app
from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.geometry.rotations import matrices_to_quats
from fit3d_cli.rooms import write_room

WIDTH, HEIGHT, VIEWS = 48, 32, 5
ARCHITECTURE = {
    "img_size": [HEIGHT, WIDTH], "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2,
}  # fmt: skip
# Small enough for a second per scene; every stage of the real thing runs.
SMALL = """
[lift]
heldout = 0.2
isolate = "never"
[lift.backbone]
width = 48
[lift.geometry]
width = 48
iterations = 12
init_gaussians = 200
checkpoint_every = 4
[lift.features]
dim = 4
[finetune]
epochs = 2
checkpoint_every = 2
[probe]
steps = 3
[probe.backbone]
width = 48
[compare]
images = 2
[compare.backbone]
width = 48
[viz.backbone]
width = 48
[render]
width = 48
"""


def write_model(folder: Path, seed: int) -> None:
    """A random ViT as a finished model directory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = import_timm().create_model(
            "vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, **ARCHITECTURE
        )
    backbone = Backbone(folder.name, "vit_tiny_patch16_224", model, model_args=ARCHITECTURE)
    write_model_directory(folder, backbone, card="# A random model\n", extra={})


def write_layouts(room: Path, folder: Path) -> None:
    """The same five photos and poses as transforms.json, cameras.json and COLMAP models."""
    K = np.loadtxt(room / "intrinsics.txt")
    poses = [np.loadtxt(file) for file in sorted(room.glob("*.pose.txt"))]
    shots = [Image.open(file) for file in sorted(room.glob("*.color.png"))]
    names = [f"shot-{i}.png" for i in range(len(shots))]
    for layout in ("transforms", "cameras-json", "colmap-txt", "colmap-bin"):
        (folder / layout / "images").mkdir(parents=True)
        for name, shot in zip(names, shots, strict=True):
            shot.save(folder / layout / "images" / name)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {"file_path": f"images/{n}", "transform_matrix": (p @ flip).tolist()}
        for n, p in zip(names, poses, strict=True)
    ]
    top = {"w": WIDTH, "h": HEIGHT, "fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    (folder / "transforms/transforms.json").write_text(json.dumps({**top, "frames": frames}))
    frames = [
        {"file": f"images/{n}", "c2w_opencv": p.tolist()} for n, p in zip(names, poses, strict=True)
    ]
    top = {"w": WIDTH, "h": HEIGHT, "fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    (folder / "cameras-json/cameras.json").write_text(json.dumps({**top, "frames": frames}))
    viewmats = np.linalg.inv(np.stack(poses))
    quats = matrices_to_quats(torch.from_numpy(viewmats[:, :3, :3])).numpy()
    params = (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    write_colmap_text(folder / "colmap-txt/sparse/0", names, quats, viewmats[:, :3, 3], params)
    write_colmap_binary(folder / "colmap-bin/sparse/0", names, quats, viewmats[:, :3, 3], params)


def write_colmap_text(
    model: Path, names: list[str], quats: np.ndarray, shifts: np.ndarray, params: tuple[float, ...]
) -> None:
    model.mkdir(parents=True)
    numbers = " ".join(map(repr, map(float, params)))
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {numbers}\n")
    lines = []
    for i, name in enumerate(names):
        pose = " ".join(repr(float(v)) for v in (*quats[i], *shifts[i]))
        lines += [f"{i + 1} {pose} 1 {name}", ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("1 0.5 0.5 0.5 255 128 0 0.3\n")


def write_colmap_binary(
    model: Path, names: list[str], quats: np.ndarray, shifts: np.ndarray, params: tuple[float, ...]
) -> None:
    model.mkdir(parents=True)
    camera = struct.pack("<Q", 1) + struct.pack("<iiQQ4d", 1, 1, WIDTH, HEIGHT, *params)
    (model / "cameras.bin").write_bytes(camera)
    data = struct.pack("<Q", len(names))
    for i, name in enumerate(names):
        data += struct.pack("<i7di", i + 1, *quats[i], *shifts[i], 1)
        data += name.encode() + b"\0" + struct.pack("<Q", 0)
    (model / "images.bin").write_bytes(data)
    point = struct.pack("<Q3d3BdQ", 1, 0.5, 0.5, 0.5, 255, 128, 0, 0.3, 0)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 1) + point)


def write_weights(folder: Path) -> None:
    """Weight files for the tiny model, one good and the others each wrong in one way."""
    good = load_file(folder / "tiny/model.safetensors")
    files = folder / "weights"
    files.mkdir()
    shifted = {key: value + 1 for key, value in good.items()}
    save_file(shifted, files / "other.safetensors")
    save_file({**good, "norm.weight": torch.ones(31)}, files / "shape.safetensors")
    save_file({**good, "norm.weight": torch.full((32,), torch.nan)}, files / "nan.safetensors")
    save_file({k: v for k, v in good.items() if k != "cls_token"}, files / "lacking.safetensors")
    save_file({f"module.{k}": v for k, v in good.items()}, files / "names.safetensors")
    whole = (folder / "tiny/model.safetensors").read_bytes()
    (files / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (files / "text.safetensors").write_text("not a tensor file, but long enough to look at")
    (files / "empty.safetensors").touch()
    (files / "model.pth").write_bytes(b"\x80\x02}q\x00.")


def write_world(root: Path, *, lifted: bool = True) -> Path:
    """The whole of it; without what takes seconds to compute if it is not to be ``lifted``."""
    root.mkdir(parents=True)
    (root / "small.toml").write_text(SMALL)
    write_model(root / "tiny", 1)
    write_weights(root)
    for i in range(2):
        write_room(root / f"rooms/room-{i}", i, views=VIEWS, width=WIDTH, height=HEIGHT)
    write_layouts(root / "rooms/room-0", root / "layouts")
    common = ["--workspace", str(root / "out"), "--profile", str(root / "small.toml"), "-q"]
    lift = ["lift", str(root / "rooms"), "--backbone", str(root / "tiny"), *common]
    for argv in (lift, ["finetune", *common]) if lifted else ():
        if app.run(argv) != 0:
            raise RuntimeError(f"the world cannot be made: {argv}")
    shutil.rmtree(root / "out/cache", ignore_errors=True)
    return root
