"""DINOv2 (Oquab et al. 2023) and DINOv2 with registers (Darcet et al. 2023), patch size 14."""

from __future__ import annotations

from fit3d_cli.backbones.base import register

for _size in ("small", "base", "large"):
    register(
        f"dinov2-{_size}",
        f"vit_{_size}_patch14_dinov2.lvd142m",
        "apache-2.0",
        "the default of FiT3D and of most dense tasks" if _size == "small" else "",
    )
    register(
        f"dinov2-{_size}-reg",
        f"vit_{_size}_patch14_reg4_dinov2.lvd142m",
        "apache-2.0",
        "four registers: fewer high-norm artefact tokens",
    )
