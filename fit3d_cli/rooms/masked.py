"""Self-supervision for a small ViT: see a part of the picture, predict the rest.

A masked autoencoder (He et al. 2022, arXiv 2111.06377): the encoder sees a random subset of
the patches, a small decoder predicts others: their mean colour, and their pattern normalised
by its own contrast. No labels, depths or poses are used. The colour matters: patterns alone
teach edges, colours teach what belongs together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fit3d_cli.rooms.augment import augment
from fit3d_cli.rooms.vit import GRID, PATCH, WIDTH, RoomViT, grid_positions

# Mean colours of patches deviate by about this much, so both parts of the loss weigh alike.
COLOR_UNIT = 0.4


class MaskedAutoencoder(nn.Module):
    """The encoder with a decoder for training it, on pictures of its own grid size.

    The decoder is cross-attention only (Fu et al. 2024, arXiv 2401.14391): queries of some
    hidden patches look at the seen tokens, so its cost does not grow with the picture.

    Args:
        vit: The encoder.
        width: Channels of the decoder.
        keep: Shares of the patches that the encoder sees; each batch draws one of them. In use
            the encoder sees all, so training on few only would leave it in a strange place.
        predict: Share of the patches that the decoder predicts.
    """

    def __init__(self, vit: RoomViT, *, width: int, keep: Sequence[float], predict: float) -> None:
        super().__init__()
        self.vit = vit
        self.patches = GRID[0] * GRID[1]
        self.kept = [round(share * self.patches) for share in keep]
        self.asked = round(predict * self.patches)
        self.enter = nn.Linear(WIDTH, width)
        self.position = nn.Parameter(grid_positions(*GRID, width))
        self.blocks = nn.ModuleList(_CrossBlock(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 3 * PATCH**2 + 3)

    def loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Error of the predicted patches: squared for patterns, robust for mean colours.

        Args:
            images: ``[B, 3, H, W]`` uint8.
            generator: Draws crops and masks.
        """
        images, _ = augment(images, generator)
        batch = len(images)
        order = torch.rand(batch, self.patches, generator=generator).argsort(dim=1)
        kept = self.kept[int(torch.randint(len(self.kept), (1,), generator=generator))]
        seen, asked = order[:, :kept], order[:, kept : kept + self.asked]
        tokens = self.vit.embed(images)
        visible = _pick(tokens[:, 1:], seen)
        x = self.enter(self.vit.encode(torch.cat([tokens[:, :1], visible], dim=1)))
        queries = self.position[asked]
        for block in self.blocks:
            queries = block(queries, x)
        predicted = self.leave(self.norm(queries))
        target = _pick(F.unfold(images, PATCH, stride=PATCH).transpose(1, 2), asked)
        pixels = target.reshape(batch, self.asked, 3, PATCH**2)
        color = pixels.mean(3)
        contrast = (target.var(2) + 1e-2).sqrt()[:, :, None, None]
        pattern = ((pixels - color[..., None]) / contrast).flatten(2)
        return F.mse_loss(predicted[..., :-3], pattern) + F.smooth_l1_loss(
            predicted[..., -3:], color / COLOR_UNIT, beta=0.2
        )


class _CrossBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        mixed, _ = self.attention(self.norm1(queries), tokens, tokens, need_weights=False)
        x = queries + mixed
        return cast(Tensor, x + self.mlp(self.norm2(x)))


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index [B, K]`` of ``tokens [B, T, D]``: ``[B, K, D]``."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))
