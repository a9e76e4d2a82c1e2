"""The small ViT that is trained on rooms, with the parameter names of timm.

Its state dict loads strictly into ``timm.models.vision_transformer.VisionTransformer`` built
with ``architecture()``. It is written out here because training needs the masked path inside
the encoder, and no part but ``backbones`` imports timm.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID = (12, 16)
PATCH = 8
WIDTH = 128
DEPTH = 6
HEADS = 4


def architecture() -> dict[str, Any]:
    """Keyword arguments of timm's ``VisionTransformer`` for this network."""
    return {
        "img_size": [GRID[0] * PATCH, GRID[1] * PATCH], "patch_size": PATCH, "embed_dim": WIDTH,
        "depth": DEPTH, "num_heads": HEADS, "num_classes": 0, "class_token": True,
        "dynamic_img_size": True,
    }  # fmt: skip


class RoomViT(nn.Module):
    """A plain pre-norm vision transformer with a class token and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        position = grid_positions(*GRID, WIDTH)
        self.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, WIDTH), position])[None])
        self.blocks = nn.Sequential(*(_Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` pictures to ``[B, 1 + patches, WIDTH]`` tokens with positions."""
        x = self.patch_embed.proj(images)
        position = self.pos_embed[:, 1:]
        if x.shape[2:] != torch.Size(GRID):
            grid = position.reshape(1, *GRID, WIDTH).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, x.shape[2:], mode="bicubic", antialias=True)
            position = grid.flatten(2).transpose(1, 2)
        x = x.flatten(2).transpose(1, 2) + position
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([first.to(x.dtype).expand(len(x), -1, -1), x], dim=1)

    def encode(self, tokens: Tensor) -> Tensor:
        """Embedded tokens ``[B, T, WIDTH]``, all or some, through the blocks and the norm."""
        return cast(Tensor, self.norm(self.blocks(tokens)))

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens ``[B, patches, WIDTH]`` after the final norm, row by row."""
        return self.encode(self.embed(images))[:, 1:]


def grid_positions(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of row and column, ``[rows * columns, width]``: where training starts.

    From waves the network reads neighbourhood at once; from noise it would have to learn it.
    """
    waves = width // 4
    rates = 1.5 * 24.0 ** (-torch.arange(waves) / waves)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    phases = [axis.reshape(-1, 1) * rates for axis in (y, x)]
    return 0.5 * torch.cat([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], 1)


class _PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, count, width)))


class _MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = _Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = _MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))
