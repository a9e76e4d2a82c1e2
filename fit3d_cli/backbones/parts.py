"""What of a backbone is trained: all of it, low-rank updates, or an adapter on top."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import nn

from fit3d_cli.backbones.adapters import make_adapter
from fit3d_cli.backbones.lora import Layers, add_low_rank, merge_low_rank
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import SettingsError

Part = Literal["full", "lora", "adapter", "swin"]
_KINDS = {"adapter": "conv", "swin": "swin"}


def make_trainable(
    backbone: Backbone,
    *,
    part: Part,
    rank: int = 8,
    blocks: int = 0,
    layers: Layers = "qv",
    keep_norm: bool = True,
    generator: torch.Generator,
) -> dict[str, nn.Parameter]:
    """Freeze a backbone except for one part, in place; its tokens stay the same, bit for bit.

    Args:
        backbone: As loaded, on its device. One that has an adapter already keeps it: trained
            along with ``full`` and by its own part, frozen under ``lora``.
        part: ``full`` = every weight that patch tokens depend on; ``lora`` = ``LowRank`` updates;
            ``adapter`` and ``swin`` = ``ConvAdapter`` and ``SwinAdapter``.
        rank: Of ``lora``.
        blocks: Last blocks that ``lora`` updates; 0 = all.
        layers: Layers of ``lora``.
        keep_norm: ``lora`` keeps the length of every weight row.
        generator: On the CPU; draws what does not start at zero.

    Returns:
        The trained parameters by name, in an order that depends on the architecture only.

    Raises:
        SettingsError: Blocks or rank exceed the backbone's, or it has another adapter.
        ValueError: It was called before and ``merge`` was not.
    """
    if backbone.thawed is not None:
        raise ValueError("the backbone is being trained already: merge it first")
    had = backbone.adapter
    if part in _KINDS and had is not None and backbone.adapter_kind != _KINDS[part]:
        raise SettingsError(
            f"the model has another adapter already ({backbone.adapter_kind})",
            where="finetune.train.part",
            hint="train the same part, full or lora",
        )
    before = {name: p.requires_grad for name, p in backbone.named_parameters()}
    if part == "full":
        names = _used(backbone)
    elif part == "lora":
        add_low_rank(
            backbone.model, rank=rank, blocks=blocks, layers=layers, keep_norm=keep_norm,
            generator=generator,
        )  # fmt: skip
        names = {name for name, _ in backbone.named_parameters() if ".update." in name}
    else:
        if had is None:
            heads = int(cast(Any, backbone.model).blocks[0].attn.num_heads)
            made = make_adapter(_KINDS[part], backbone.dim, heads, generator)
            backbone.adapter = made.to(backbone.device)
        names = {name for name, _ in backbone.named_parameters() if name.startswith("adapter.")}
    backbone.thawed = before
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)
    return {name: p for name, p in backbone.named_parameters() if name in names}


def merge(backbone: Backbone) -> None:
    """End a training, in place: plain timm weights, every parameter as free as it was before.

    An adapter stays: it is a layer of its own.
    """
    merge_low_rank(backbone.model)
    before = backbone.thawed or {}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(before.get(name, True))  # a new adapter's are free
    backbone.thawed = None


def _used(backbone: Backbone) -> set[str]:
    """Names of the parameters that patch tokens depend on (not, say, a pooling head)."""
    named = dict(backbone.named_parameters())
    side = 2 * backbone.patch_size
    with torch.enable_grad():
        for parameter in named.values():
            parameter.requires_grad_(True)
        images = torch.full((1, 3, side, side), 0.5, device=backbone.device)
        total = backbone.tokens(images).sum()
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name for name, gradient in zip(named, found, strict=True) if gradient is not None}
