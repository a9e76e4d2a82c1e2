"""A tiny room, a tiny random backbone, and helpers for the lifting tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import read_capture
from fit3d_cli.device import seeded
from fit3d_cli.lifting.lift import LiftResult, lift_captures
from fit3d_cli.lifting.stacked import Stacked
from fit3d_cli.lifting.views import Frames, load_frames
from fit3d_cli.progress import ignore
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import LiftSettings
from fit3d_cli.splat.rasterize import TokenWeights

VIEWS, WIDTH, HEIGHT = 8, 64, 48


@pytest.fixture(scope="session")
def backbone_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: a random ViT with patches of 8 pixels and 24 channels."""
    arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
    with seeded(0):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **arguments,
        )  # fmt: skip
    directory = tmp_path_factory.mktemp("backbones") / "midget"
    backbone = Backbone("midget", "vit_tiny_patch16_224", model, model_args=arguments).eval()
    write_model_directory(directory, backbone, card="A random model.", extra={})
    return directory


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with depth; read only."""
    directory = tmp_path_factory.mktemp("captures") / "room"
    write_room(directory, 0, views=VIEWS, width=WIDTH, height=HEIGHT)
    return directory


@pytest.fixture
def copied_room(room: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(room, tmp_path / "copies" / "room"))


@pytest.fixture(scope="session")
def capture(room: Path) -> Capture:
    return read_capture(room)


@pytest.fixture(scope="session")
def frames(capture: Capture) -> Frames:
    """Fitted at 48x36: geometry needs nothing larger."""
    return load_frames(capture, 48, ignore, stage="photos")


@pytest.fixture(scope="session")
def tiny(backbone_dir: Path) -> Callable[..., LiftSettings]:
    """Settings of a lift that takes half a second; keyword arguments replace geometry's."""

    def make(*, dim: int = 6, backbone: Path = backbone_dir, **geometry: object) -> LiftSettings:
        fitted = {
            "width": 48, "iterations": 40, "init_gaussians": 300, "max_gaussians": 400,
            "densify_start": 5, "densify_every": 10, "densify_stop": 0.8, **geometry,
        }  # fmt: skip
        return LiftSettings.model_validate({
            "backbone": {"name": str(backbone), "width": 64},
            "geometry": fitted,
            "features": {"dim": dim},
            "heldout": 0.2,
        })  # fmt: skip

    return make


Lift = Callable[..., LiftResult]


@pytest.fixture(scope="session")
def lift() -> Lift:
    """Lifts one capture."""

    def run(root: Path, settings: LiftSettings, workspace: Path, seed: int = 0) -> LiftResult:
        (result,) = lift_captures(
            [root], settings, workspace=workspace, device="cpu", seed=seed, on_event=ignore
        )
        return result

    return run


@pytest.fixture(scope="session")
def lifted(
    tmp_path_factory: pytest.TempPathFactory, room: Path, tiny: Callable[..., LiftSettings],
    lift: Lift,
) -> LiftResult:  # fmt: skip
    """The room, lifted once; read only."""
    return lift(room, tiny(), tmp_path_factory.mktemp("lifted"))


@dataclass(frozen=True)
class Problem:
    """Random sparse weights, the same as a dense matrix, and codes."""

    weights: list[TokenWeights]
    a: Stacked
    dense: Tensor  # [T, N] float64
    codes: Tensor  # [T, d]
    stacked: Tensor  # [T, d] float64
    unseen: list[int]


def _make_problem(
    views: int = 3, h: int = 4, w: int = 5, count: int = 12, dim: int = 3, seed: int = 0,
    density: float = 0.4,
) -> Problem:  # fmt: skip
    """Rows of non-negative weights that sum to less than one; two Gaussians are never seen."""
    generator = torch.Generator().manual_seed(seed)
    unseen = [3, count - 1]
    weights, blocks = [], []
    for _ in range(views):
        dense = torch.rand(h * w, count, generator=generator)
        dense *= torch.rand(h * w, count, generator=generator) < density
        dense[:, unseen] = 0
        dense /= 1.1 * dense.sum(1, keepdim=True).clamp_min(0.1)
        rows, cols = dense.nonzero(as_tuple=True)
        offsets = torch.zeros(h * w + 1, dtype=torch.int64)
        offsets[1:] = torch.cumsum(torch.bincount(rows, minlength=h * w), 0)
        weights.append(TokenWeights(h, w, count, offsets, cols.int(), dense[rows, cols]))
        blocks.append(dense)
    codes = torch.randn(views * h * w, dim, generator=generator)
    big = views * h * w * count > 1 << 24  # no use for a dense copy then
    dense = torch.empty(0) if big else torch.cat(blocks).double()
    return Problem(weights, Stacked(weights), dense, codes, codes.double(), unseen)


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    return _make_problem


@pytest.fixture
def problem() -> Problem:
    return _make_problem()
