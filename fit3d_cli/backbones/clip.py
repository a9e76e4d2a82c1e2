"""CLIP image towers, patch size 16."""

from __future__ import annotations

from fit3d_cli.backbones.base import register

register(
    "clip-base",
    "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k",
    "apache-2.0",
    "the CLIP of FiT3D: LAION-2B CLIP fine-tuned on ImageNet classes",
)
register(
    "clip-base-openai",
    "vit_base_patch16_clip_quickgelu_224.openai",
    "apache-2.0",
    "OpenAI's CLIP as released, image tower only",
)
