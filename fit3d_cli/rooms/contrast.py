"""Self-supervision for a small ViT, second part: the same place in two crops of one picture.

Masked prediction teaches what surrounds what but leaves it hard to read off linearly; a short
contrastive training after it mends that (Lehner et al. 2023, arXiv 2304.10520, for whole
pictures). Here patches are contrasted (as Wang et al. 2021, arXiv 2011.09157): a patch of one
crop should resemble the patch at its place in another crop more than any other patch of the
batch. Both crops come from one picture, so nothing is learned about other viewpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fit3d_cli.rooms.augment import augment
from fit3d_cli.rooms.vit import GRID, WIDTH, RoomViT


class PatchContrast(nn.Module):
    """The encoder with a projection that is contrasted and then thrown away.

    Args:
        vit: The encoder.
        keep: Share of the patches of a crop that the encoder sees.
        anchors: Pairs of patches per picture.
        temperature: Of the softmax over cosine similarities.
    """

    def __init__(self, vit: RoomViT, *, keep: float, anchors: int, temperature: float) -> None:
        super().__init__()
        self.vit = vit
        self.kept, self.anchors, self.temperature = (
            round(keep * GRID[0] * GRID[1]), anchors, temperature,
        )  # fmt: skip
        self.project = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH // 2)
        )

    def loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Symmetric InfoNCE over pairs of patches.

        Args:
            images: ``[B, 3, H, W]`` uint8.
            generator: Draws crops, seen patches and pairs.
        """
        first, places = self._view(images, generator)
        second, others = self._view(images, generator)
        # Distances in patches of an uncropped picture.
        unit = torch.tensor([GRID[1] / 2, GRID[0] / 2])
        distances = torch.cdist(places * unit, others * unit)
        nearest, partner = distances.min(dim=2)
        chance = torch.rand(nearest.shape, generator=generator)
        score, anchor = torch.where(nearest < 0.5, chance, -chance).topk(self.anchors, dim=1)
        good = (score > 0).flatten()
        picture = torch.arange(len(images)).repeat_interleave(self.anchors)[good]
        anchor = anchor.flatten()[good]
        match = partner[picture, anchor]
        logits = first[picture, anchor] @ second[picture, match].T / self.temperature
        # Neighbours of the match show nearly the same and are no counterexamples.
        close = (picture[:, None] == picture) & (
            distances[picture[:, None], anchor[:, None], match] < 2.5
        )
        close.fill_diagonal_(False)
        logits = logits.masked_fill(close, -1e4)
        target = torch.arange(len(logits))
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))

    def _view(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Unit projections ``[B, K, D]`` of some patches of a crop, and their places."""
        crops, centers = augment(images, generator, strong=True)
        order = torch.rand(centers.shape[:2], generator=generator).argsort(dim=1)
        seen = order[:, : self.kept, None]
        tokens = self.vit.embed(crops)
        visible = tokens[:, 1:].gather(1, seen.expand(-1, -1, WIDTH))
        encoded = self.vit.encode(torch.cat([tokens[:, :1], visible], dim=1))[:, 1:]
        projected = F.normalize(self.project(encoded), dim=2)
        return projected, centers.gather(1, seen.expand(-1, -1, 2))
