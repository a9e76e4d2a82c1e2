"""A small world to break: captures of every layout, a model, a workspace with two lifted scenes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model ``tiny`` and the profile ``small.toml``."""
    root = tmp_path_factory.mktemp("model")
    (root / "small.toml").write_text(SMALL)
    write_model(root / "tiny", 1)
    return root


@pytest.fixture(scope="session")
def original(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world that nobody may touch; tests get a copy."""
    root = copied(model, tmp_path_factory.mktemp("original") / "w")
    write_weights(root)
    for i in range(2):
        write_room(root / f"rooms/room-{i}", i, views=VIEWS, width=WIDTH, height=HEIGHT)
    write_layouts(root / "rooms/room-0", root / "layouts")
    common = ["--workspace", str(root / "out"), "--profile", str(root / "small.toml"), "-q"]
    assert app.run(["lift", str(root / "rooms"), "--backbone", str(root / "tiny"), *common]) == 0
    assert app.run(["finetune", *common]) == 0
    shutil.rmtree(root / "out/cache")
    return root


def copied(original: Path, root: Path, *parts: str) -> Path:
    """A copy of the world or of parts of it, whose workspace remembers the copied places."""
    for part in parts or ("",):
        source = original / part
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / part)
    for file in root.glob("out/*.json"):
        file.write_text(file.read_text().replace(str(original), str(root)))
    return root


@pytest.fixture(scope="session")
def shared(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(original, tmp_path_factory.mktemp("shared") / "w")


@pytest.fixture
def untouched(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The world as the working directory, for tests that leave it as they found it."""
    monkeypatch.chdir(shared)
    return shared


@pytest.fixture
def world(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world as the working directory, to be damaged."""
    root = copied(original, tmp_path / "w")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def capture_only(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Copy one capture of the world, beside model and profile."""

    def copy(capture: str) -> Path:
        monkeypatch.chdir(copied(original, tmp_path / "w", "small.toml", "tiny", capture))
        return Path(capture)

    return copy


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run a command line that must be refused: the contract of every failure.

    Paths in messages are shortened to the working directory, so that the length of a line does
    not depend on where the tests run.
    """

    def check(argv: list[str], code: int, culprit: str, says: str = "", *, kept: str = "-") -> None:
        root = Path.cwd()
        common = ["--profile", "small.toml", "--workspace", "new" if argv[0] == "lift" else "out"]
        before = tree(root)
        capsys.readouterr()
        given = app.run([argv[0], *common, "-q", *argv[1:]])
        shown = capsys.readouterr()
        line = shown.err.replace(f"{root}/", "")
        assert given == code, line
        assert shown.out == ""
        assert line.startswith("fit3d: error: "), line
        assert line.count("\n") == 1, line
        assert "Traceback" not in line
        assert culprit in line, line
        assert says in line, line
        _, dash, remedy = line.partition(" - ")
        assert dash and len(remedy.strip()) > 5, f"no remedy: {line}"
        assert len(line) <= 400, f"{len(line)} characters: {line}"
        after = tree(root)
        touched = {path for path, _ in set(before.items()) ^ set(after.items())}
        assert not [path for path in touched if not path.startswith(kept or "-")], touched

    return check


def tree(root: Path) -> dict[str, str]:
    """Every file and folder below ``root``, with the sha256 of each file."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            found[os.path.relpath(Path(folder) / name, root)] = "folder"
        for name in files:
            data = (Path(folder) / name).read_bytes()
            found[os.path.relpath(Path(folder) / name, root)] = hashlib.sha256(data).hexdigest()
    return found
