"""Narrow members of each family of backbones, with random weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone, require_plain_vit
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.device import seeded

Family = Callable[..., Backbone]


@pytest.fixture(scope="session")
def family() -> Family:
    """``family(timm_id, **model_args)``: two blocks, 48 channels, 3 heads, stored grid 4 x 4.

    Also ``family("room-tiny")``, as it is.
    """

    def make(timm_id: str, **changes: object) -> Backbone:
        timm = import_timm()
        if timm_id in BACKBONES:
            with seeded(1):
                return load_backbone(timm_id, pretrained=False)
        side = 4 * (14 if "patch14" in timm_id else 16)
        shape = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": side, **changes}
        with seeded(1):
            model = timm.create_model(
                timm_id, pretrained=False, num_classes=0, dynamic_img_size=True, **shape
            )
            # timm starts some of these at 0 or 1, where nothing that depends on them would show.
            for name, parameter in model.named_parameters():
                if "gamma" in name or "token" in name:
                    torch.nn.init.normal_(parameter, 0.5 if "gamma" in name else 0.0, 0.1)
        require_plain_vit(model, timm_id)
        return Backbone(timm_id, timm_id, model, model_args=shape).eval()

    return make


@pytest.fixture(scope="session")
def pictures() -> Callable[[Backbone], Tensor]:
    """Two pictures of 3 x 5 patches."""

    def make(backbone: Backbone) -> Tensor:
        rows, columns = 3 * backbone.patch_size, 5 * backbone.patch_size
        return torch.rand(2, 3, rows, columns, generator=torch.Generator().manual_seed(0))

    return make
