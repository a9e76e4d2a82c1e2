"""DINOv3 (Siméoni et al. 2025): rotary positions, four registers, patch size 16."""

from __future__ import annotations

from fit3d_cli.backbones.base import register

for _name, _size in {
    "small": "small",
    "small-plus": "small_plus",
    "base": "base",
    "large": "large",
}.items():
    register(
        f"dinov3-{_name}",
        f"vit_{_size}_patch16_dinov3.lvd1689m",
        "dinov3-license",
        "Meta's DINOv3 licence: read it before you publish or sell",
    )
