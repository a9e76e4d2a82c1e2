"""What a model directory may ask timm for: plain numbers and words, nothing that reads or runs.

``config.json`` comes from anywhere, and its ``model_args`` become keywords of
``timm.create_model``. That function also takes ``checkpoint_path``, which opens a pickle, and
classes of layers; so the keywords are a closed list and their values are bounded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fit3d_cli.errors import WeightsError

# Shapes and switches of timm's VisionTransformer and Eva.
_KNOWN = {
    "attn_drop_rate", "attn_type", "class_token", "depth", "drop_path_rate", "drop_rate",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "fc_norm", "final_norm", "fix_init",
    "global_pool", "img_size", "in_chans", "init_values", "mlp_ratio", "no_embed_class",
    "num_classes", "num_heads", "num_reg_tokens", "patch_drop_rate", "patch_size",
    "pool_include_prefix", "pos_drop_rate", "pos_embed", "pre_norm", "proj_bias",
    "proj_drop_rate", "qk_norm", "qkv_bias", "qkv_fused", "ref_feat_shape", "reg_tokens",
    "rope_grid_indexing", "rope_grid_offset", "rope_jitter_coords", "rope_rescale_coords",
    "rope_rotate_half", "rope_shift_coords", "rope_temperature", "rope_type",
    "scale_attn_inner", "scale_attn_norm", "scale_mlp", "scale_mlp_norm", "swiglu_align_to",
    "swiglu_mlp", "use_abs_pos_emb", "use_fc_norm", "use_post_norm",
    "use_post_transformer_norm", "use_pre_transformer_norm", "use_rot_pos_emb", "weight_init",
}  # fmt: skip
_MOST = {"depth": 256, "embed_dim": 1 << 14, "img_size": 1 << 13, "num_heads": 256,
         "patch_size": 256, "in_chans": 16, "reg_tokens": 256, "num_reg_tokens": 256}  # fmt: skip
_LARGEST = 1 << 16
_LONGEST = 32
_MAX_BYTES = 1 << 20  # of a JSON file of a model directory


def require_plain_arguments(arguments: Mapping[str, Any], path: Path) -> None:
    """Refuse keywords that do more than give an architecture its shape.

    Args:
        arguments: ``model_args`` of a ``config.json``.
        path: The file, for the message.

    Raises:
        WeightsError: A keyword is not known, or its value is no plain one of sensible size.
    """
    for key, value in arguments.items():
        if key not in _KNOWN:
            raise WeightsError(
                f"model_args asks for {key[:_LONGEST]!r}, which is not a shape of a ViT",
                where=path,
                hint="name a directory that fit3d finetune or fit3d export has finished",
            )
        values = value if isinstance(value, list) and len(value) <= 4 else [value]
        if not all(_sensible(one, _MOST.get(key, _LARGEST)) for one in values):
            raise WeightsError(
                f"model_args.{key} is no value of sensible size",
                where=path,
                hint="name a directory that fit3d finetune or fit3d export has finished",
            )


def read_model_json(path: Path) -> Any:
    """What a small JSON file holds.

    Raises:
        OSError: It cannot be read.
        ValueError: No JSON, too large or nested too deep.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    try:
        return json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _sensible(value: Any, most: float) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return len(value) <= _LONGEST
    if isinstance(value, int):
        return abs(value) <= most
    return isinstance(value, float) and math.isfinite(value) and abs(value) <= most
