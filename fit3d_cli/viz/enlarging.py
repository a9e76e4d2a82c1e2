"""Values of a token grid at the pixels of the photo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fit3d_cli.shapes import check_dims

Upscale = Literal["smooth", "photo", "cells"]

_RADIUS = 2  # tokens; a 5 x 5 window
_SPATIAL = 0.6  # deviation in tokens
_RANGE = 0.09  # deviation of the colour distance, for colours in 0..1
_FLOOR = 1e-4  # of the colour weight: where nothing looks alike, distance alone decides


def enlarge_values(values: Tensor, photo: Tensor, mode: Upscale) -> Tensor:
    """Scale a token grid to the pixels of its photo.

    ``smooth`` is bicubic and invents nothing; ``cells`` keeps the tokens visible; ``photo`` is
    joint bilateral upsampling (Kopf et al. 2007, eq. 3): a pixel gets the mean of the tokens
    around it, weighted by distance and by how much the mean colour of the token's patch is like
    the pixel's. Its edges come from the photo, not from the features.

    Args:
        values: ``[h, w, k]``.
        photo: ``[H, W, 3]`` in 0..1.
        mode: How.

    Returns:
        ``[H, W, k]``; ``photo`` and ``cells`` stay within the range of ``values``.
    """
    sizes = check_dims(values=(values, "h w k"), photo=(photo, "H W 3"))
    size = (sizes["H"], sizes["W"])
    if mode == "photo":
        return _by_photo(values.float(), photo.float())
    batch = values.permute(2, 0, 1)[None].float()
    if mode == "cells":
        # "nearest-exact" has its sample points at cell centres, as the tokens have.
        scaled = interpolate(batch, size, mode="nearest-exact")
    else:
        scaled = interpolate(batch, size, mode="bicubic", align_corners=False)
    return scaled[0].permute(1, 2, 0)


def enlarge_labels(labels: Tensor, count: int, photo: Tensor, mode: Upscale) -> Tensor:
    """``[h, w]`` labels to ``[H, W]``: at each pixel the one whose enlarged map is highest.

    Args:
        labels: int64 in 0..count-1.
        count: Different labels.
        photo: ``[H, W, 3]`` in 0..1.
        mode: As in ``enlarge_values``.
    """
    check_dims(labels=(labels, "h w"))
    planes = torch.nn.functional.one_hot(labels, count).float()
    return enlarge_values(planes, photo, mode).argmax(-1)


def _by_photo(values: Tensor, photo: Tensor) -> Tensor:
    (height, width), (tall, wide) = values.shape[:2], photo.shape[:2]
    patches = interpolate(
        photo.permute(2, 0, 1)[None], (height, width), mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    # Pixel centres in units of tokens; the cell that holds each; distances to token centres.
    down = (torch.arange(tall) + 0.5) * height / tall
    right = (torch.arange(wide) + 0.5) * width / wide
    total = values.new_zeros(tall, wide, values.shape[2])
    norm = values.new_zeros(tall, wide, 1)
    for dy in range(-_RADIUS, _RADIUS + 1):
        rows, near_y = _neighbours(down, dy, height)
        for dx in range(-_RADIUS, _RADIUS + 1):
            cols, near_x = _neighbours(right, dx, width)
            alike = (photo - patches[rows][:, cols]).square().sum(-1, keepdim=True)
            weight = torch.exp(alike / (-2 * _RANGE**2)) + _FLOOR
            weight *= (near_y[:, None] * near_x)[..., None]
            total += weight * values[rows][:, cols]
            norm += weight
    return total / norm.clamp(min=1e-12)


def _neighbours(places: Tensor, offset: int, count: int) -> tuple[Tensor, Tensor]:
    """Tokens ``offset`` from the ones that hold ``places``, and their weight by distance."""
    index = places.floor().long() + offset
    weight = torch.exp((places - index - 0.5).square() / (-2 * _SPATIAL**2))
    inside = (index >= 0) & (index < count)
    return index.clamp(0, count - 1), torch.where(inside, weight, torch.zeros_like(weight))
