"""A scene of two walls, red on the left and blue on the right, with a feature each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.archive import write_archive
from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.capture.read import capture_digest, read_capture, view_cameras
from fit3d_cli.decoders import Decoder
from fit3d_cli.device import seeded
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh
from fit3d_cli.images import save_png
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.storage import write_json
from fit3d_cli.workspace import Workspace

RED, BLUE = (0.9, 0.2, 0.1), (0.1, 0.3, 0.9)


def make_walls() -> tuple[Gaussians, torch.Tensor]:
    """Gaussians and their ``[N, 4]`` features; the first half is the red wall."""
    draw = torch.Generator().manual_seed(0)
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1.4, -0.1, 9), indexing="ij")
    left = torch.stack([xs, ys, torch.full_like(xs, 3.0)], -1).reshape(-1, 3)
    right = left * torch.tensor([-1.0, 1, 1]) + torch.tensor([0, 0, 1.0])
    means = torch.cat([left, right]) + 0.01 * torch.randn(2 * len(left), 3, generator=draw)
    count = len(means)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1)
    scales = 0.07 + 0.05 * torch.rand(count, 3, generator=draw)
    colour = torch.tensor(RED).repeat(len(left), 1), torch.tensor(BLUE).repeat(len(left), 1)
    features = torch.tensor([[2.0, 0, 0, 0]]).repeat(count, 1)
    features[len(left) :] = torch.tensor([0.0, 2, 0, 0])
    features += 0.1 * torch.randn(count, 4, generator=draw)
    sh = rgb_to_sh(torch.cat(colour))[:, None]
    return Gaussians(means, quats, scales, torch.full((count,), 0.95), sh), features


def make_decoder() -> Decoder:
    draw = torch.Generator().manual_seed(1)
    weight = 0.05 * torch.randn(24, 4, 3, 3, generator=draw)
    weight[:, :, 1, 1] += torch.randn(24, 4, generator=draw)
    return Decoder(weight, 0.3 * torch.randn(24, generator=draw))


def make_capture(root: Path) -> None:
    frames = []
    rng = np.random.default_rng(0)
    for index in range(4):
        name = f"images/{index:02d}.png"
        blocks = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        save_png(root / name, np.ascontiguousarray(blocks.repeat(16, 0).repeat(16, 1)))
        pose = torch.eye(4)
        pose[1, 1] = pose[2, 2] = -1  # OpenGL axes of a camera that looks along +z
        pose[0, 3] = 0.1 * index - 0.15
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    text = {"fl_x": 80.0, "fl_y": 80.0, "cx": 48.0, "cy": 32.0, "w": 96, "h": 64, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(text), "utf-8")


def make_models(home: Workspace) -> str:
    """A base and a model tuned from it; the digest of the base."""
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "license": "apache-2.0"},
    }
    folder = home.root / "base"
    write_json(folder / "config.json", config)
    with seeded(0):
        backbone = load_backbone(str(folder), pretrained=False)
    write_model_directory(folder, backbone, card="", extra={})
    digest = backbone.weights_sha256
    with torch.no_grad():
        for weight in backbone.model.parameters():
            weight.mul_(1.05)
    base = {"base": {"name": "base", "weights_sha256": digest}}
    write_model_directory(home.models_dir / "tuned", backbone, card="", extra=base)
    home.remember_backbone(digest, str(folder))
    return digest


def make_scene(root: Path, digest: str = "0" * 64, backbone: str = "base") -> Scene:
    capture = read_capture(root)
    gaussians, features = make_walls()
    return Scene(
        "walls", gaussians, features, make_decoder(),
        FeatureSource(backbone, digest, 24, 16, 96, 64), view_cameras(capture),
        tuple(view.name for view in capture.views),
        torch.tensor([False, True, False, False]), capture_digest(capture),
        metrics={"psnr": 21.5, "feature_cosine": 0.875},
    )  # fmt: skip


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scene]:
    place = tmp_path_factory.mktemp("viewer")
    home = Workspace(place / "out")
    make_capture(place / "walls")
    scene = make_scene(place / "walls", make_models(home))
    write_archive(home.scene_path("walls"), scene)
    home.remember_capture("walls", place / "walls")
    return home.root, scene


@pytest.fixture(scope="session")
def scene(_made: tuple[Path, Scene]) -> Scene:
    return _made[1]


@pytest.fixture(scope="session")
def home(_made: tuple[Path, Scene]) -> Path:
    """A workspace with the scene, its capture and two models; nobody writes to it."""
    return _made[0]
