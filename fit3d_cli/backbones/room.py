"""The built-in backbone: a small ViT trained by this project on its own procedural rooms.

Its weights ship with the package, so that everything works offline. It is a test bed and a
demonstration, not a competitor.
"""

from __future__ import annotations

from fit3d_cli.backbones.base import BACKBONES, BackboneSpec

# timm's smallest plain ViT, made smaller: 8-pixel patches suit pictures of a few hundred pixels.
ROOM_ARCHITECTURE = "vit_tiny_patch16_224"
ROOM_MODEL_ARGS = {
    "img_size": 128,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
}
ROOM_PRETRAINED_CFG = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "license": "apache-2.0",
    "input_size": (3, 128, 128),
    "hf_hub_id": None,
    "tag": "",
}
ROOM_FILE = "room_vit.safetensors"

BACKBONES.add(
    "room-tiny",
    BackboneSpec(
        "room-tiny",
        ROOM_ARCHITECTURE,
        "apache-2.0",
        "built in, trained on procedural rooms: for demos and tests",
        file=ROOM_FILE,
        model_args=ROOM_MODEL_ARGS,
        pretrained_cfg=ROOM_PRETRAINED_CFG,
    ),
)
