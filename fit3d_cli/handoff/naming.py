"""Tensor names of timm's vision transformers in transformers' models, both ways.

transformers keeps queries, keys and values apart where timm stacks them in ``attn.qkv``, and its
position embedding has a row for the class token where some of timm's have none. The names are
those of published checkpoints, which every version of transformers reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

QKV = ("query", "key", "value")
# Of the whole model; the same in Dinov2Model, Dinov2WithRegistersModel and ViTModel.
_STEM = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
# Of a block, without ``.weight`` and ``.bias``.
_DINOV2 = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls2.gamma": "layer_scale2.lambda1",
}
_GATED = _DINOV2 | {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_VIT = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_FIELD = re.compile(r"(.+?)(\.weight|\.bias|)$")


def to_transformers(
    state: Mapping[str, Tensor], *, class_row: bool, scaled: bool, gated: bool = False
) -> dict[str, Tensor]:
    """Tensors of timm under transformers' names.

    Args:
        state: Of a timm ViT with a class token.
        class_row: ``pos_embed`` begins with the class token's row; else a row of zeros is added.
        scaled: For Dinov2Model and its like (layer scale), else for ViTModel.
        gated: The MLPs are gated (SwiGLU).

    Raises:
        KeyError: A tensor that those models have no place for; the key is timm's name.
    """
    table = (_GATED if gated else _DINOV2) if scaled else _VIT
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _BLOCK.fullmatch(key)
        if match is None:
            named[_STEM[key]] = value
            continue
        layer, (name, kind) = f"encoder.layer.{match[1]}", _split(match[2])
        if name == "attn.qkv":
            for part, rows in zip(QKV, value.chunk(3), strict=True):
                named[f"{layer}.attention.attention.{part}{kind}"] = rows
        elif name in table:
            named[f"{layer}.{table[name]}{kind}"] = value
        else:
            raise KeyError(key)
    positions = named["embeddings.position_embeddings"]
    if not class_row:
        row = torch.zeros_like(positions[:, :1])
        named["embeddings.position_embeddings"] = torch.cat([row, positions], dim=1)
    return named


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse; ``pos_embed`` keeps its row for the class token (see ``fold_class_row``).

    Names that it does not know stay as they are, for the strict loader to count.
    """
    flat = {re.sub(r"^(vit|dinov2|dinov2_with_registers)\.", "", k): v for k, v in tensors.items()}
    stem = {theirs: ours for ours, theirs in _STEM.items()}
    blocks = {theirs: ours for table in (_VIT, _DINOV2, _GATED) for ours, theirs in table.items()}
    named: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        match = _LAYER.fullmatch(key)
        if match is None:
            named[stem.get(key, key)] = value
            continue
        block, (name, kind) = f"blocks.{match[1]}", _split(match[2])
        part = name.removeprefix("attention.attention.")
        if part in QKV:
            apart.setdefault(f"{block}.attn.qkv{kind}", {})[part] = value
        else:
            named[f"{block}.{blocks[name]}{kind}" if name in blocks else key] = value
    for key, parts in apart.items():
        if parts.keys() == set(QKV):
            named[key] = torch.cat([parts[part] for part in QKV])
        else:
            named |= {f"{key}.{part}": value for part, value in parts.items()}
    return named


def from_facebook(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """facebookresearch/dinov2's names: timm's but for ``register_tokens``."""
    return {"reg_token" if k == "register_tokens" else k: v for k, v in tensors.items()}


def fold_class_row(state: dict[str, Tensor]) -> None:
    """Add the class token's position to the class token, in place: timm's models with registers."""
    token, positions = state["cls_token"], state["pos_embed"]
    state["cls_token"] = token + positions[:, :1]
    state["pos_embed"] = positions[:, 1:]


def _split(name: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(name)
    assert match is not None
    return match[1], match[2]
