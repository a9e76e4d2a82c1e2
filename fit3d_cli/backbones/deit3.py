"""DeiT III (Touvron et al. 2022): supervised on ImageNet-1k, patch size 16."""

from __future__ import annotations

from fit3d_cli.backbones.base import register

for _size in ("small", "base", "large"):
    register(f"deit3-{_size}", f"deit3_{_size}_patch16_224.fb_in1k", "apache-2.0")
