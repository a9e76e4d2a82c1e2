"""Finer tokens, guided by the photo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fit3d_cli.shapes import check_dims

_RADIUS = 2  # tokens; a 5 x 5 window
_SPATIAL = 0.5  # deviation in tokens
_RANGE = 0.1  # deviation of the colour distance, for colours in 0..1


def upsample_tokens(tokens: Tensor, image: Tensor, factor: int) -> Tensor:
    """Joint bilateral upsampling (Kopf et al. 2007, eq. 3).

    ``out(p) = sum_q T(q) f(p - q) g(I(p) - I(q)) / sum_q f(p - q) g(I(p) - I(q))`` over the tokens
    q around p, with Gaussians f of the distance in tokens and g of the distance in colour. I(p) and
    I(q) are the mean colours of the cell p and of the patch q, so a cell gets the tokens of what
    looks like it and lies near it.

    Args:
        tokens: ``[h, w, C]`` floating point.
        image: ``[3, H, W]`` in 0..1; H and W are multiples of ``h factor`` and ``w factor``.
        factor: Finer by this, at least 1; 1 gives the tokens as they are.

    Returns:
        ``[h factor, w factor, C]``.

    Raises:
        ValueError: The picture does not divide into the cells.
    """
    sizes = check_dims(tokens=(tokens, "h w C"), image=(image, "3 H W"))
    height, width = sizes["h"], sizes["w"]
    if factor < 1 or sizes["H"] % (height * factor) or sizes["W"] % (width * factor):
        raise ValueError(
            f"{sizes['W']}x{sizes['H']} pixels do not divide into {width}x{height} tokens,"
            f" {factor} times finer"
        )
    if factor == 1:
        return tokens
    weights = _weights(image.float().to(tokens.device), height, width, factor)
    finer = tokens.new_zeros(height, factor, width, factor, sizes["C"])
    margin = (0, 0, _RADIUS, _RADIUS, _RADIUS, _RADIUS)
    around = functional.pad(tokens, margin)[:, None, :, None]
    for weight, (down, right) in zip(weights, _offsets(), strict=True):
        near = around[down : down + height, :, right : right + width]
        finer.addcmul_(weight[..., None].to(finer.dtype), near)
    return finer.reshape(height * factor, width * factor, sizes["C"])


def _offsets() -> list[tuple[int, int]]:
    """Rows and columns of the window, from its corner."""
    side = 2 * _RADIUS + 1
    return [(row, column) for row in range(side) for column in range(side)]


def _weights(image: Tensor, height: int, width: int, factor: int) -> Tensor:
    """``[25, h, factor, w, factor]`` weights, which sum to 1 over the window."""
    cell = (image.shape[1] // (height * factor), image.shape[2] // (width * factor))
    fine = functional.avg_pool2d(image[None], cell)[0]
    coarse = functional.avg_pool2d(fine[None], factor)[0]
    fine = fine.reshape(3, height, factor, width, factor)
    # Colours far off the scale stand for tokens beyond the border: nothing looks like them.
    margin = (_RADIUS, _RADIUS, _RADIUS, _RADIUS)
    around = functional.pad(coarse, margin, value=float("inf"))[:, :, None, :, None]
    steps = (torch.arange(factor, device=image.device) + 0.5) / factor - 0.5
    logs = []
    for down, right in _offsets():
        near = around[:, down : down + height, :, right : right + width]
        colour = (fine - near).square().sum(dim=0)
        away = (steps - (down - _RADIUS)).square()[:, None, None] + (
            steps - (right - _RADIUS)
        ).square()
        logs.append(-colour / (2 * _RANGE**2) - away / (2 * _SPATIAL**2))
    # Relative to the best: a cell that looks like none of them takes what comes nearest.
    return torch.softmax(torch.stack(logs), dim=0)
