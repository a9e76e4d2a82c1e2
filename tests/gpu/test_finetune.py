"""Fine-tuning and probing on a GPU do what they do on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.device import seeded
from fit3d_cli.finetuning.finetune import FinetuneResult, finetune
from fit3d_cli.lifting.lift import lift_captures
from fit3d_cli.probing.run import run_probe
from fit3d_cli.progress import ignore
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import FinetuneSettings, LiftSettings, ProbeSettings

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room lifted on the CPU with a random backbone."""
    home = tmp_path_factory.mktemp("home")
    shape = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
    with seeded(0):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True, **shape
        )
    backbone = Backbone("midget", "vit_tiny_patch16_224", model, model_args=shape).eval()
    write_model_directory(home / "midget", backbone, card="A random model.", extra={})
    write_room(home / "room", 0, views=12, width=96, height=72)
    settings = LiftSettings.model_validate({
        "backbone": {"name": str(home / "midget"), "width": 96},
        "geometry": {"width": 64, "iterations": 60, "init_gaussians": 600, "densify": False},
        "features": {"dim": 8},
        "heldout": 0.2,
    })  # fmt: skip
    lift_captures([home / "room"], settings, workspace=home / "out", device="cpu", seed=0,
                  on_event=ignore)  # fmt: skip
    return home


def _tune(home: Path, device: str, **changes: object) -> FinetuneResult:
    name = "-".join([device, *map(str, changes.get("objectives", {})), str(changes["precision"])])  # type: ignore[call-overload]
    settings = FinetuneSettings.model_validate(
        {"name": name, "lr": 1e-3, "epochs": 2, "batch": 4, **changes}
    )
    return finetune(
        [home / "out" / "scenes" / "room.f3d"], settings, workspace=home / "out", device=device,
        seed=0, captures=[], on_event=ignore,
    )  # fmt: skip


@pytest.mark.parametrize(
    "objectives",
    [{}, {"info_nce": 0.3}, {"smooth_ap": 1.0, "location": 1.0}, {"gram": 1.0, "norm_angle": 0.1}],
)
def test_float32_gives_the_weights_of_the_cpu(
    home: Path, device: torch.device, objectives: dict[str, float]
) -> None:
    ours, cpu = (
        read_weights(
            _tune(home, where, precision="float32", objectives=objectives).path
            / "model.safetensors"
        )
        for where in ("cuda", "cpu")
    )
    for name, tensor in cpu.items():
        # Adam divides by the gradient's own size, so rounding shows where it is near zero.
        assert (ours[name] - tensor).abs().mean() < 2e-4, name


def test_bfloat16_learns_as_well(home: Path, device: torch.device) -> None:
    half, full = (_tune(home, "cuda", precision=p) for p in ("auto", "float32"))
    assert half.heldout_after < half.heldout_before
    assert abs(half.heldout_after - full.heldout_after) < 0.05 * full.heldout_after


def test_correspondence_is_that_of_the_cpu(home: Path, device: torch.device) -> None:
    settings = ProbeSettings.model_validate({
        "backbone": {"name": str(home / "midget"), "width": 96}, "models": ["base"],
    })  # fmt: skip
    ours, cpu = (
        run_probe("corr", str(home / "room"), settings, workspace=home / where, device=where,
                  seed=0, on_event=ignore).report.rows[0].metrics
        for where in ("cuda", "cpu")
    )  # fmt: skip
    for name, value in cpu.items():
        assert ours[name] == pytest.approx(value, abs=0.02), name
