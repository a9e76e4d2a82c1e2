"""The built-in backbone: a small ViT trained by this project on its own procedural rooms.

Its weights ship with the package, so that everything works offline. It is a test bed and a
demonstration, not a competitor.
"""

from __future__ import annotations

from fit3d_cli.backbones.base import BACKBONES, BackboneSpec

# timm's smallest plain ViT, made smaller: 8-pixel patches suit pictures of a few hundred pixels.
# The weight file says the same of itself in its metadata, and a test compares them.
ROOM_ARCHITECTURE = "vit_tiny_patch16_224"
ROOM_MODEL_ARGS = {
    "img_size": [96, 128],
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
}
ROOM_PRETRAINED_CFG = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "license": "apache-2.0",
    "input_size": (3, 96, 128),
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
