"""A backbone for pictures of one size, as exporters need it."""

from __future__ import annotations

import importlib
from typing import Any, cast

from torch import nn

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import SettingsError


def fixed_size(backbone: Backbone, width: int, height: int) -> Backbone:
    """The same weights for pictures of one size: no position is resampled when it runs.

    Args:
        backbone: On the CPU; left as it is, and its adapter is shared.
        width: Of the pictures, a multiple of the patch size.
        height: Likewise.

    Returns:
        A backbone whose tokens at this size are those of ``backbone``, bit for bit.

    Raises:
        SettingsError: The size is no multiple of the patch size.
    """
    patch = backbone.patch_size
    for option, side in (("--width", width), ("--height", height)):
        if side < patch or side % patch:
            raise SettingsError(
                f"{side} is no multiple of the patch size {patch}",
                where=option,
                hint=f"give {max(patch, round(side / patch) * patch)}",
            )
    timm = import_timm()
    layers = importlib.import_module("timm.layers")
    source = cast(Any, backbone.model)
    architecture, _, _ = backbone.timm_id.partition(".")
    arguments = {k: v for k, v in backbone.model_args.items() if k != "img_size"}
    made = timm.create_model(
        architecture, pretrained=False, num_classes=0, img_size=(height, width), **arguments
    )
    made.pretrained_cfg = dict(source.pretrained_cfg)
    state = dict(source.state_dict())
    if "pos_embed" in state:
        prefix = 0 if getattr(source, "no_embed_class", False) else backbone.prefix_tokens
        state["pos_embed"] = layers.resample_abs_pos_embed(
            state["pos_embed"],
            new_size=[height // patch, width // patch],
            old_size=list(backbone.grid_size),
            num_prefix_tokens=prefix,
        )
    made.load_state_dict(state, strict=True)
    fixed = Backbone(
        backbone.name, backbone.timm_id, cast(nn.Module, made), model_args=backbone.model_args,
        source=backbone.source, matched=backbone.matched, ignored=backbone.ignored,
    )  # fmt: skip
    fixed.adapter = backbone.adapter
    return fixed.eval()
