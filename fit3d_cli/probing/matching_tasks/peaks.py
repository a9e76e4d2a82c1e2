"""Arg-max of the cosine over a feature map enlarged to pixels, without enlarging the features.

The dot product with an enlarged feature is the enlarged dot product, as both are linear. The norm
of an enlarged feature is a quadratic form of its four tokens: with weights ``w_a`` the square is
``sum_ab w_a w_b <f_a, f_b>``, so five maps of inner products of neighbouring tokens give it
exactly. 840 x 840 x 768 values (2 GiB) become a few maps of 840 x 840.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate as enlarge

from fit3d_cli.shapes import check_dims


def best_pixels(queries: Tensor, grid: Tensor, width: int, height: int) -> Tensor:
    """Where in the enlarged map the cosine to each query is largest.

    Args:
        queries: ``[K, C]`` features, of any length.
        grid: ``[h, w, C]`` tokens, enlarged bilinearly (pixel centres at +0.5, border repeated).
        width: Width of the enlarged map, pixels.
        height: Height of the enlarged map, pixels.

    Returns:
        ``[K, 2]`` float64 x, y of the centre of the winning pixel; the first in reading order
        where several are equal.
    """
    check_dims(queries=(queries, "K C"), grid=(grid, "h w C"))
    norms = enlarged_norms(grid, width, height).clamp(min=1e-12)
    dots = (queries @ grid.flatten(0, 1).T).reshape(len(queries), *grid.shape[:2])
    best = []
    for one in dots:
        cosine = _enlarged(one[None], width, height)[0].double() / norms
        best.append(cosine.flatten().argmax())
    if not best:
        return torch.zeros(0, 2, dtype=torch.float64)
    index = torch.stack(best).cpu()
    return torch.stack([index % width + 0.5, index // width + 0.5], dim=1).double()


def enlarged_norms(grid: Tensor, width: int, height: int) -> Tensor:
    """``[height, width]`` float64 length of every feature of the enlarged ``[h, w, C]`` map."""
    f = grid.double()
    top, bottom, y = _neighbours(f.shape[0], height, f.device)
    left, right, x = _neighbours(f.shape[1], width, f.device)
    # Inner products of each token with itself and its neighbours; at the border with itself.
    below = torch.cat([f[1:], f[-1:]])
    beside, diagonal = (torch.cat([g[:, 1:], g[:, -1:]], dim=1) for g in (f, below))
    own, down = (f * f).sum(-1), (f * below).sum(-1)
    across, slash = (f * beside).sum(-1), (f * diagonal).sum(-1)
    backslash = (below * beside).sum(-1)

    def at(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return values[rows][:, columns]

    s, t = y[:, None], x[None, :]
    # |(1-t) a + t b|^2 with a, b the vertical blends of the left and the right column.
    a = (1 - s) ** 2 * at(own, top, left) + s**2 * at(own, bottom, left)
    a = a + 2 * s * (1 - s) * at(down, top, left)
    b = (1 - s) ** 2 * at(own, top, right) + s**2 * at(own, bottom, right)
    b = b + 2 * s * (1 - s) * at(down, top, right)
    ab = (1 - s) ** 2 * at(across, top, left) + s**2 * at(across, bottom, left)
    ab = ab + s * (1 - s) * (at(slash, top, left) + at(backslash, top, left))
    square = (1 - t) ** 2 * a + t**2 * b + 2 * t * (1 - t) * ab
    return square.clamp(min=0).sqrt()


def _neighbours(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper token and the weight of the upper one, for each of ``size`` pixels."""
    centre = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) * count / size - 0.5
    centre = centre.clamp(0, count - 1)
    lower = centre.long()
    return lower, (lower + 1).clamp(max=count - 1), centre - lower


def _enlarged(maps: Tensor, width: int, height: int) -> Tensor:
    made: Tensor = enlarge(maps[None], (height, width), mode="bilinear", align_corners=False)
    return made[0]
