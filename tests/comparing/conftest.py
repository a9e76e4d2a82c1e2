"""A tiny workspace: one capture, its scene, two models, two reports."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.archive import write_archive
from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.capture.read import capture_digest, read_capture, view_cameras
from fit3d_cli.decoders import Decoder
from fit3d_cli.device import seeded
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.images import save_png
from fit3d_cli.report import Figure, Report
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.statistics import Measured, make_rows
from fit3d_cli.storage import write_json
from fit3d_cli.workspace import Workspace

EVIL = "<script>alert(1)</script>.png"


CPU = torch.device("cpu")


@dataclass
class FakeBackbone:
    """Tokens are a fixed linear function of each patch's mean colour."""

    channels: int = 6
    patch_size: int = 8
    device: torch.device = CPU
    gain: float = 1.0
    calls: int = 0

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        scale = target_width / width
        return tuple(max(1, round(s * scale / self.patch_size)) * self.patch_size
                     for s in (width, height))  # type: ignore[return-value]  # fmt: skip

    def tokens(self, images: Tensor) -> Tensor:
        self.calls += 1
        cells = torch.nn.functional.avg_pool2d(images, self.patch_size).permute(0, 2, 3, 1)
        weight = torch.randn(3, self.channels, generator=torch.Generator().manual_seed(0))
        return cells @ weight * self.gain


def photo(seed: int, width: int = 48, height: int = 32) -> np.ndarray:  # type: ignore[type-arg]
    """Blocks of colour, so that clusters exist."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.ascontiguousarray(
        blocks.repeat(-(-height // 4), 0).repeat(-(-width // 6), 1)[:height, :width]
    )


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "photos" / name for name in ("a.png", EVIL.replace("/", "_"), "c.png")]
    for seed, path in enumerate(paths):
        save_png(path, photo(seed))
    return paths


@pytest.fixture
def fake() -> type[FakeBackbone]:
    return FakeBackbone


@pytest.fixture(name="make_report")
def _make_report() -> Callable[..., Report]:
    return make_report


def make_report(task: str = "depth", shift: float = -0.1, count: int = 30) -> Report:
    rng = np.random.default_rng(5)
    base = rng.uniform(0.2, 0.6, count)
    noise = rng.normal(0, 0.02, count)
    tuned = base + shift + noise - noise.mean()
    name, second = {
        "depth": ("rmse", "abs_rel"), "seg": ("miou", "aacc"),
        "corr": ("recall@1patch", "recall@1patch:0-15deg"), "cls": ("top1", "top5"),
        "transfer": ("pck@0.10", "pck@0.05"), "track": ("aj", "oa"),
        "pose": ("5cm 5deg", "1cm 1deg"),
    }[task]  # fmt: skip
    rows = make_rows({
        model: Measured({name: values.tolist(), second: (values / 2).tolist()})
        for model, values in (("base", base), ("tuned", tuned))
    })  # fmt: skip
    drift = {"cosine": Figure(0.75, 24, 0.7, 0.8), "norm_ratio": Figure(1.25, 24, 1.2, 1.3)}
    return Report(task, "office", rows, count, "pairs" if task == "corr" else "images",
                  {"steps": 7, "data": "/home/ann/data"}, ("A note.",), drift)  # fmt: skip


def make_capture(root: Path) -> None:
    frames = []
    for index in range(6):
        name = f"images/{index:02d}.png"
        save_png(root / name, photo(index))
        pose = torch.eye(4)
        pose[0, 3] = 0.1 * index
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    text = {"fl_x": 40.0, "fl_y": 40.0, "cx": 24.0, "cy": 16.0, "w": 48, "h": 32, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(text), "utf-8")


def make_scene(root: Path, name: str) -> Scene:
    capture = read_capture(root)
    draw = torch.Generator().manual_seed(0)
    count = 40
    means = torch.randn(count, 3, generator=draw) * 0.4 + torch.tensor([0.2, 0.0, -3.0])
    gaussians = Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1), torch.full((count, 3), 0.3),
        torch.full((count,), 0.9), torch.randn(count, 1, 3, generator=draw),
    )  # fmt: skip
    decoder = Decoder(torch.zeros(8, 4, 3, 3), torch.zeros(8))
    return Scene(
        name, gaussians, torch.randn(count, 4, generator=draw), decoder,
        FeatureSource("base", "0" * 64, 8, 16, 48, 32), view_cameras(capture),
        tuple(view.name for view in capture.views),
        torch.tensor([False, True, False, False, True, False]), capture_digest(capture),
        metrics={"psnr_heldout": 21.5, "feature_cosine_heldout": 0.875, "seconds": 3.0},
    )  # fmt: skip


def make_models(home: Workspace) -> None:
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "license": "apache-2.0"},
    }
    directory = home.models_dir / "base"
    write_json(directory / "config.json", config)
    with seeded(0):
        backbone = load_backbone(str(directory), pretrained=False)
    write_model_directory(directory, backbone, card="", extra={})
    with torch.no_grad():
        for weight in backbone.model.parameters():
            weight.mul_(1.05)
    write_model_directory(home.models_dir / "tuned", backbone, card="", extra={})
    os.utime(directory / "config.json", (1e9, 1e9))
    os.utime(home.models_dir / "tuned" / "config.json", (1.1e9, 1.1e9))


@pytest.fixture
def full_workspace(tmp_path: Path) -> Path:
    home = Workspace(tmp_path / "out")
    capture = tmp_path / "room"
    make_capture(capture)
    write_archive(home.scene_path("room"), make_scene(capture, "room"))
    home.remember_capture("room", capture)
    make_models(home)
    write_json(home.reports_dir / "depth-office.json", make_report().to_dict())
    return home.root
