"""Resizing, turning and mirroring as the published pipelines do, on torch tensors.

Pictures are ``[3, H, W]`` float32 with values 0..255 and stay whole numbers where the published
code holds bytes. OpenCV's fixed-point arithmetic may differ by one level.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from fit3d_cli.shapes import check_dims


def as_picture(photo: NDArray[np.uint8]) -> Tensor:
    """``[H, W, 3]`` uint8 to ``[3, H, W]`` float32 in 0..255."""
    return torch.from_numpy(photo).permute(2, 0, 1).float()


def keep_ratio_size(width: int, height: int, long: int, short: int) -> tuple[int, int]:
    """The largest size of the same shape within two bounds (mmcv's ``rescale_size``).

    Args:
        width: Of the picture.
        height: Of the picture.
        long: Bound of the longer side.
        short: Bound of the shorter side.

    Returns:
        ``(width, height)``, at least one pixel each.
    """
    factor = min(long / max(width, height), short / min(width, height))
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def resize_bytes(picture: Tensor, width: int, height: int) -> Tensor:
    """Bilinear without antialiasing, rounded to whole numbers."""
    check_dims(picture=(picture, "3 H W"))
    if picture.shape[1:] == (height, width):
        return picture
    resized = interpolate(
        picture[None], size=(height, width), mode="bilinear", align_corners=False
    )[0]
    return (resized + 0.5).floor_()  # halves go up, as in OpenCV


def resize_nearest(values: Tensor, width: int, height: int) -> Tensor:
    """``[H, W]``: the sample at ``floor(i * H / height)`` (OpenCV's nearest)."""
    sizes = check_dims(values=(values, "H W"))
    rows = torch.arange(height) * sizes["H"] // height
    columns = torch.arange(width) * sizes["W"] // width
    return values[rows[:, None], columns[None]]


def turn(values: Tensor, degrees: float, *, nearest: bool = False) -> Tensor:
    """Turn ``[C, H, W]`` clockwise about its middle; what comes from outside is 0.

    Args:
        values: The channels.
        degrees: Of rotation.
        nearest: Take the nearest sample instead of mixing four.
    """
    sizes = check_dims(values=(values, "C H W"))
    height, width = sizes["H"], sizes["W"]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x = torch.arange(width, dtype=torch.float64) - middle_x
    y = (torch.arange(height, dtype=torch.float64) - middle_y)[:, None]
    # Where each pixel comes from: turned back, that is counter-clockwise (y points down).
    from_x, from_y = cos * x + sin * y, -sin * x + cos * y
    places = torch.stack([from_x / max(middle_x, 0.5), from_y / max(middle_y, 0.5)], dim=-1)
    mode = "nearest" if nearest else "bilinear"
    return grid_sample(values[None], places[None].to(values.dtype), mode=mode,
                       padding_mode="zeros", align_corners=True)[0]  # fmt: skip


def mirror(values: Tensor) -> Tensor:
    """``[..., W]`` with left and right exchanged."""
    return values.flip(-1)
