"""Masked autoencoders (He et al. 2021), patch size 16."""

from __future__ import annotations

from fit3d_cli.backbones.base import register

for _size in ("base", "large"):
    register(
        f"mae-{_size}",
        f"vit_{_size}_patch16_224.mae",
        "cc-by-nc-4.0",
        "weights are for non-commercial use only",
    )
