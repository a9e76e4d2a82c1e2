"""Small modules on top of a frozen backbone: ``[B, h, w, C]`` tokens in, as many out.

Both add to the tokens what starts as zero, so an untrained adapter gives the base's tokens bit
for bit, and taking it away gives the base back.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.device import seeded

_WINDOW = 7
# Last layers of what is added to the tokens; an adapter does nothing while they are zero.
_LAST = ("conv.", "block.attn.proj.", "block.mlp.fc2.")


def zero_at_start(name: str) -> bool:
    """Whether a tensor of an adapter's state is zero in an adapter that does nothing."""
    return name.startswith(_LAST)


class Adapter(nn.Module):
    """Changes a grid of tokens.

    Attributes:
        kind: ``conv`` or ``swin``.
    """

    kind: str

    def describe(self) -> dict[str, Any]:
        """What ``build_adapter`` needs to make it again, plain JSON types."""
        raise NotImplementedError

    def silence(self) -> None:
        """Make it the identity."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if zero_at_start(name):
                    parameter.zero_()


class ConvAdapter(Adapter):
    """``x + conv3x3(x)``, weights and bias zero at the start.

    The layer of 3DCorrEnhance (ICLR 2025) that follows its LoRA; theirs replaces x and starts
    at random, which makes the first step worse than the base.

    Args:
        dim: Token channels C.
    """

    kind = "conv"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.silence()

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {"kind": self.kind, "dim": self.dim}

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, h, w, C]`` to ``[B, h, w, C]``."""
        change = self.conv(tokens.permute(0, 3, 1, 2))
        return cast(Tensor, tokens + change.permute(0, 2, 3, 1))


class SwinAdapter(Adapter):
    """One Swin block on 7x7 windows (Liu et al. 2021), FiT3D's alternative to tuning the backbone.

    The last layers of both residual branches start at zero, unlike FiT3D's. Grids that are no
    multiple of the window are padded with zeros, as in Swin.

    Args:
        dim: Token channels C.
        heads: Attention heads; they divide C.
    """

    kind = "swin"

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        import_timm()
        made = importlib.import_module("timm.models.swin_transformer").SwinTransformerBlock(
            dim, _WINDOW, num_heads=heads, window_size=_WINDOW, shift_size=0,
            always_partition=True, dynamic_mask=True,
        )  # fmt: skip
        self.block = cast(nn.Module, made)
        for name, parameter in self.block.named_parameters():
            # As FiT3D's: timm leaves this to the whole network's initialiser.
            if name.endswith("weight") and parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=0.02)
        self.silence()

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {"kind": self.kind, "dim": self.dim, "heads": self.heads}

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, h, w, C]`` to ``[B, h, w, C]``."""
        return cast(Tensor, self.block(tokens))


def make_adapter(kind: str, dim: int, heads: int, generator: torch.Generator) -> Adapter:
    """A new adapter, the identity.

    Args:
        kind: ``conv`` or ``swin``.
        dim: Token channels C.
        heads: Attention heads of ``swin``.
        generator: On the CPU; decides the weights that do not start at zero.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    with seeded(seed):  # torch's and timm's initialisers know the global generator only
        return ConvAdapter(dim) if kind == ConvAdapter.kind else SwinAdapter(dim, heads)


def build_adapter(description: Mapping[str, Any], dim: int) -> Adapter:
    """An adapter as ``Adapter.describe`` describes it, its weights yet to be loaded.

    Args:
        description: From a model directory, unchecked.
        dim: Token channels of the backbone.

    Raises:
        ValueError: The description is not one, or of an adapter for another backbone.
    """
    kind, channels = description.get("kind"), description.get("dim")
    if channels != dim:
        raise ValueError(f"an adapter for {channels!r} channels on a backbone of {dim}")
    if kind == ConvAdapter.kind:
        return ConvAdapter(dim)
    heads = description.get("heads")
    if kind == SwinAdapter.kind and type(heads) is int and heads > 0 and dim % heads == 0:
        with seeded(0):
            return SwinAdapter(dim, heads)
    raise ValueError(f"an unknown adapter {kind!r}")
