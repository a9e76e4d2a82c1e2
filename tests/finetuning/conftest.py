"""Two tiny scenes lifted with a tiny random backbone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.device import seeded
from fit3d_cli.finetuning.finetune import FinetuneResult, finetune
from fit3d_cli.lifting.lift import lift_captures
from fit3d_cli.progress import OnEvent, ignore
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import FinetuneSettings, LiftSettings


def write_backbone(directory: Path, seed: int) -> Path:
    """A model directory: a random ViT with patches of 8 pixels and 24 channels."""
    arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
    with seeded(seed):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **arguments,
        )  # fmt: skip
    backbone = Backbone(directory.name, "vit_tiny_patch16_224", model, model_args=arguments).eval()
    write_model_directory(directory, backbone, card="A random model.", extra={})
    return directory


@pytest.fixture(scope="session")
def backbone_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbones") / "midget", 0)


@pytest.fixture(scope="session")
def other_backbone_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return write_backbone(tmp_path_factory.mktemp("others") / "stranger", 1)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, backbone_dir: Path) -> Path:
    """``captures/`` and a workspace ``out/`` with two scenes; read only.

    The rooms have photos of different sizes, so their views cannot share a batch.
    """
    root = tmp_path_factory.mktemp("home")
    write_room(root / "captures" / "hall", 0, views=6, width=64, height=48)
    write_room(root / "captures" / "attic", 1, views=5, width=64, height=32)
    settings = LiftSettings.model_validate({
        "backbone": {"name": str(backbone_dir), "width": 64},
        "geometry": {"width": 48, "iterations": 20, "init_gaussians": 250, "densify": False},
        "features": {"dim": 5},
        "heldout": 0.2,
        "isolate": "never",
    })  # fmt: skip
    lift_captures(
        [root / "captures"], settings, workspace=root / "out", device="cpu", seed=0,
        on_event=ignore,
    )  # fmt: skip
    return root


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that a test may write to; the captures stay where they are."""
    return Path(shutil.copytree(home / "out", tmp_path / "own"))


Tune = Callable[..., FinetuneResult]


@pytest.fixture(scope="session")
def tune() -> Tune:
    """Tunes on the workspace's scenes, fast enough to see a difference in a few steps."""

    def run(
        workspace: Path, *, scenes: tuple[str, ...] = ("hall", "attic"), seed: int = 0,
        captures: tuple[Path, ...] = (), on_event: OnEvent = ignore, **changes: object,
    ) -> FinetuneResult:  # fmt: skip
        settings = FinetuneSettings.model_validate({"lr": 1e-3, "epochs": 2, **changes})
        return finetune(
            [workspace / "scenes" / f"{name}.f3d" for name in scenes], settings,
            workspace=workspace, device="cpu", seed=seed, captures=list(captures),
            on_event=on_event,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The files of a model directory by name."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    return read
