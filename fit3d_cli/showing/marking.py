"""The photo with the point that a similarity starts from."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.showing.point import Point

_OVERSAMPLING = 4


def mark(photo: Tensor, point: Point, size: tuple[int, int]) -> Tensor:
    """``photo`` with a ring around ``point``.

    Args:
        photo: ``[H, W, 3]`` in 0..1, as the backbone saw it.
        point: In pixels of the stored picture.
        size: ``(width, height)`` of the stored picture.

    Returns:
        ``[H, W, 3]``.
    """
    height, width = photo.shape[:2]
    # Drawn larger and shrunk, which smooths the ring's edges.
    scale = _OVERSAMPLING
    ring = Image.new("LA", (width * scale, height * scale), (0, 0))
    draw = ImageDraw.Draw(ring)
    x = (point.x + 0.5) * width / size[0] * scale
    y = (point.y + 0.5) * height / size[1] * scale
    radius = max(6.0, 0.02 * max(width, height)) * scale
    for grow, grey in ((0.45, 20), (0.0, 255)):
        box = [x - radius - grow * scale * 3, y - radius - grow * scale * 3,
               x + radius + grow * scale * 3, y + radius + grow * scale * 3]  # fmt: skip
        draw.ellipse(box, outline=(grey, 255), width=round((2 + 6 * grow) * scale))
    dot = 1.8 * scale
    draw.ellipse([x - dot, y - dot, x + dot, y + dot], fill=(255, 255))
    small = np.asarray(ring.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255
    grey_level, alpha = (torch.from_numpy(small[..., i : i + 1].copy()) for i in (0, 1))
    # Premultiplied: BOX mixed the ring's grey with the empty black around it.
    mixed: Tensor = photo * (1 - alpha) + grey_level
    return mixed.clamp(0, 1)


def marked_picture(photo: Tensor, point: Point | None, size: tuple[int, int]) -> viz.panels.Picture:
    """``mark`` in 8 bits; without a point the photo alone."""
    return viz.to_uint8(photo if point is None else mark(photo, point, size))
