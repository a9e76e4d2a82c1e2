"""Narrow members of each family of backbones, with random weights, and where they are kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.export import HUBCONF_NAME, write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.device import seeded
from fit3d_cli.handoff.hub import hubconf

Family = Callable[..., Backbone]


@pytest.fixture(autouse=True)
def _no_hubconf_stays() -> Iterator[None]:
    yield
    sys.modules.pop("hubconf", None)


@pytest.fixture(scope="session")
def family() -> Family:
    """``family(timm_id, **model_args)``: two blocks, 48 channels, 3 heads, stored grid 4 x 4."""

    def make(timm_id: str, *, seed: int = 1, **changes: object) -> Backbone:
        side = 4 * (14 if "patch14" in timm_id else 16)
        shape = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": side, **changes}
        with seeded(seed):
            model = import_timm().create_model(
                timm_id, pretrained=False, num_classes=0, dynamic_img_size=True, **shape
            )
            # timm starts these at 0 or 1, where a wrong place for them would not show.
            for name, parameter in model.named_parameters():
                if "gamma" in name or "token" in name or name.endswith("bias"):
                    torch.nn.init.normal_(parameter, 0.5 if "gamma" in name else 0.0, 0.1)
        return Backbone(timm_id, timm_id, model, model_args=shape).eval()

    return make


@pytest.fixture
def stored(family: Family, tmp_path: Path) -> Callable[..., Path]:
    """``stored(backbone, name, **facts)``: a model directory with its ``hubconf.py``."""

    def store(backbone: Backbone, name: str = "model", **facts: object) -> Path:
        base = facts.get("base")
        base_name = str(base["name"]) if isinstance(base, dict) else ""
        files = {HUBCONF_NAME: hubconf(backbone.timm_id, base_name)}
        write_model_directory(tmp_path / name, backbone, card="# x\n", extra=facts, files=files)
        return tmp_path / name

    return store


@pytest.fixture(scope="session")
def shown() -> Callable[..., tuple[Tensor, Tensor]]:
    """``shown(backbone, rows, columns)``: pictures, and the same normalised."""

    def make(backbone: Backbone, rows: int = 4, columns: int = 4) -> tuple[Tensor, Tensor]:
        patch = backbone.patch_size
        images = torch.rand(
            2, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(0)
        )
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
        return images, (images - mean) / std

    return make
