"""The verbs on a GPU do what they do on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.lifting.lift import LiftResult, lift_captures
from fit3d_cli.progress import ignore
from fit3d_cli.rendering import render_maps
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import LiftSettings
from fit3d_cli.splat.backends import splat_device

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room to lift and a random backbone with patches of 8 pixels."""
    folder = tmp_path_factory.mktemp("lift")
    shape = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
    model = import_timm().create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True, **shape
    )
    backbone = Backbone("midget", "vit_tiny_patch16_224", model, model_args=shape).eval()
    write_model_directory(folder / "midget", backbone, card="A random model.", extra={})
    write_room(folder / "room", 0, views=12, width=96, height=72)
    return folder


def _lift(folder: Path, device: str, **features: object) -> LiftResult:
    settings = LiftSettings.model_validate({
        "backbone": {"name": str(folder / "midget"), "width": 96},
        "geometry": {"width": 64, "iterations": 120, "init_gaussians": 600, "max_gaussians": 900,
                     "densify_start": 10, "densify_every": 20, "checkpoint_every": 50},
        "features": {"dim": 8, **features},
        "heldout": 0.2,
    })  # fmt: skip
    workspace = folder / f"{device}-{len(features)}"
    (result,) = lift_captures(
        [folder / "room"], settings, workspace=workspace, device=device, seed=0, on_event=ignore
    )
    return result


@pytest.mark.parametrize("features", [{}, {"robust": "huber", "preconditioner": "jacobi"}])
def test_lift(folder: Path, device: torch.device, features: dict[str, object]) -> None:
    assert splat_device("cuda") == device == splat_device("auto")
    cpu, ours = _lift(folder, "cpu", **features), _lift(folder, "cuda", **features)
    # Rounding decides which Gaussians split, so the fits are two of a kind, not the same.
    assert abs(ours.psnr_heldout - cpu.psnr_heldout) < 0.5
    assert abs(ours.feature_cosine_heldout - cpu.feature_cosine_heldout) < 0.03
    assert ours.path is not None
    scene = read_archive(ours.path)
    here, there = (render_maps(s, scene.cameras[0], features=True)
                   for s in (scene, scene.to(device)))  # fmt: skip
    for name in ("rgb", "alphas", "features"):
        a, b = getattr(here, name), getattr(there, name)
        assert a.device == b.device == torch.device("cpu")
        off = (a - b).abs() > 1e-4 * b.abs().max()
        assert off.float().mean() < 0.01, name  # a Gaussian at a threshold counts on one side


def test_adam(folder: Path, device: torch.device) -> None:
    result = _lift(folder, "cuda", solver="paper", paper_iterations=20)
    assert result.error is None and result.gaussians > 0
