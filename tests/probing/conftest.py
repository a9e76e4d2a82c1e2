"""Stand-ins for backbones, whose features are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.device import seeded
from fit3d_cli.probing.run import Probed, run_probe
from fit3d_cli.progress import ignore
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.tensorfile import write_tensors
from fit3d_cli.workspace import Workspace


@dataclass
class Colours:
    """Tokens are waves of the patch's mean colour: unit vectors that tell colours apart."""

    frequency: float = 2.0
    patch_size: int = 8

    @property
    def name(self) -> str:
        return "colours"

    @property
    def identity(self) -> str:
        return f"colours {self.frequency} {self.patch_size}"

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        wide = max(1, int(target_width / self.patch_size + 0.5)) * self.patch_size
        return wide, max(1, round(wide * height / width / self.patch_size)) * self.patch_size

    def tokens_and_cls(self, images: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.nn.functional.avg_pool2d(images, self.patch_size) * self.frequency
        waves = torch.cat([means.cos(), means.sin()], dim=1).permute(0, 2, 3, 1)
        return waves, waves.mean((1, 2))


@pytest.fixture(scope="session")
def colours() -> type[Colours]:
    """``colours(frequency, patch_size)``: a backbone of colour waves."""
    return Colours


@pytest.fixture(scope="session")
def run_random() -> Callable[..., Probed]:
    """``run_random(task, dataset, root, workspace, **settings)``: two random ViTs, all four rows.

    The whole way of the command line: files on disk to a written report with its drift.
    """

    def run(task: str, dataset: str, root: Path, workspace: Path, **settings: object) -> Probed:
        place = Workspace(workspace)
        base, tuned = (_random(seed) for seed in (0, 1))
        weights = workspace / "base.safetensors"
        write_tensors(weights, base.model.state_dict(), {"format": "pt"})
        place.remember_backbone(base.weights_sha256, str(weights))
        origin = {"name": "room-tiny", "weights_sha256": base.weights_sha256}
        write_model_directory(place.models_dir / "mine", tuned, card="", extra={"base": origin})
        asked = ProbeSettings.model_validate(
            {"models": ("base", "tuned", "concat", "sum"), "data": str(root), **settings}
        )
        return run_probe(
            task, dataset, asked, workspace=workspace, device="cpu", seed=0, on_event=ignore
        )

    return run


def _random(seed: int) -> Backbone:
    with seeded(seed):
        return load_backbone("room-tiny", pretrained=False)
