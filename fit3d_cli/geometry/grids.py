"""Values between the cells of a grid that covers a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims


def interpolate(grid: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of a token grid, the border repeated outwards; differentiable.

    The same geometry as ``torch.nn.functional.interpolate(mode="bilinear")``: token (i, j) lies at
    the centre of its patch.

    Args:
        grid: ``[h, w, C]`` of any float type.
        places: ``[P, 2]`` x and y in 0..1 of the width and height.

    Returns:
        ``[P, C]`` float32, float64 for a float64 grid.
    """
    sizes = check_dims(grid=(grid, "h w C"), places=(places, "P 2"))
    height, width = sizes["h"], sizes["w"]
    dtype = torch.promote_types(grid.dtype, torch.float32)
    x = (places[:, 0] * width - 0.5).clamp(0, width - 1)
    y = (places[:, 1] * height - 0.5).clamp(0, height - 1)
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fx, fy = (x - left).unsqueeze(1).to(dtype), (y - top).unsqueeze(1).to(dtype)
    rows = grid.reshape(height * width, -1)

    def pick(line: Tensor, column: Tensor) -> Tensor:
        return rows.index_select(0, line * width + column).to(dtype)

    upper = torch.lerp(pick(top, left), pick(top, right), fx)
    lower = torch.lerp(pick(bottom, left), pick(bottom, right), fx)
    return torch.lerp(upper, lower, fy)
