"""Random crops and tints of pictures, and where their patches came from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fit3d_cli.rooms.vit import GRID, PATCH
from fit3d_cli.shapes import check_dims


def augment(
    images: Tensor, generator: torch.Generator, *, strong: bool = False
) -> tuple[Tensor, Tensor]:
    """Random crops of the network's own size, mirror images and tints.

    Args:
        images: ``[B, 3, H, W]`` uint8.
        generator: Draws all of it.
        strong: Smaller crops, stronger tints, and a random saturation.

    Returns:
        ``[B, 3, h, w]`` float32 crops, mean and standard deviation 0.5 removed, and
        ``[B, h/patch * w/patch, 2]`` the patches' centres (x, y) in the pictures, -1 to 1.
    """
    check_dims(images=(images, "B 3 H W"))
    batch = len(images)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator)

    scale = draw(0.4 if strong else 0.55, 1.0, 1)
    shift = draw(-1, 1, 2) * (1 - scale)
    mirror = torch.where(draw(0, 1, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = (mirror * scale)[:, 0], scale[:, 0]
    theta[:, :, 2] = shift
    size = [batch, 3, GRID[0] * PATCH, GRID[1] * PATCH]
    grid = F.affine_grid(theta, size, align_corners=False)
    source = images.float() / 255
    crops = F.grid_sample(source, grid, padding_mode="reflection", align_corners=False)
    wide, narrow = (0.4, 0.15) if strong else (0.25, 0.08)
    gain = draw(1 - wide, 1 + wide, 1, 1, 1) * draw(1 - narrow, 1 + narrow, 3, 1, 1)
    crops = (crops * gain).clamp(0, 1)
    if strong:
        gray = crops.mean(1, keepdim=True)
        crops = (gray + (crops - gray) * draw(0.0, 1.3, 1, 1, 1)).clamp(0, 1)
    centers = F.affine_grid(theta, [batch, 3, *GRID], align_corners=False).flatten(1, 2)
    return (crops - 0.5) / 0.5, centers
