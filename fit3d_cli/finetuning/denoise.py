"""Tokens without what a transformer adds by position: the control that knows no geometry.

A token holds what the picture shows and an artefact that is tied to its place in the grid
(Denoising ViT, Yang et al. 2024). Moving the picture under the grid moves the first and leaves the
second, so the mean over moved copies keeps the one and wears the other down. Gains that tuning on
such targets brings have nothing to do with 3D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.shapes import check_dims

_REACH = 0.25  # of the side: the farthest shift; low-frequency artefacts need long ones
# Steps of the R2 sequence: 1 / p and 1 / p^2 with p^3 = p + 1. It fills the square evenly.
_STEPS = (0.7548776662466927, 0.5698402909980532)


def denoised_tokens(
    backbone: Backbone, image: Tensor, shifts: int | Sequence[tuple[int, int]], *, batch: int = 4
) -> Tensor:
    """Mean of the tokens of moved copies of one picture and of their mirror images.

    Copies are filled up by reflection; tokens that see any of the filling count nothing. What is
    left is sampled bilinearly where the picture's own tokens lie. No random draw is involved.

    Args:
        backbone: Frozen; its device is where it runs.
        image: ``[3, H, W]`` in 0..1, H and W multiples of the patch size.
        shifts: How many copies, the picture itself being the first; or their shifts ``(right,
            down)`` in pixels, of which one must be ``(0, 0)``, so that every token is seen.
        batch: Copies per forward pass.

    Returns:
        ``[h, w, C]`` float32.

    Raises:
        ValueError: No unmoved copy, or a shift of a whole side.
    """
    sizes = check_dims(image=(image, "3 H W"))
    size = (sizes["W"], sizes["H"])
    moves = spread_shifts(shifts, size, backbone.patch_size) if isinstance(shifts, int) else shifts
    moves = list(moves)
    if (0, 0) not in moves:
        raise ValueError("the shifts lack (0, 0)")
    image = image.to(backbone.device)
    total: Tensor | None = None
    weight = torch.zeros(())
    with torch.no_grad():
        for start in range(0, len(moves), batch):
            part = moves[start : start + batch]
            for tokens in _both_ways(backbone, torch.stack([_moved(image, s) for s in part])):
                sums, counts = _aligned(tokens.float(), part, size, backbone.patch_size)
                total = sums if total is None else total + sums
                weight = weight.to(counts) + counts
    assert total is not None
    return total / weight[..., None]


def spread_shifts(count: int, size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """Shifts that fill the square of a quarter of each side evenly, in pixels.

    Args:
        count: How many; the first is ``(0, 0)``.
        size: ``(width, height)`` of the picture.
        patch: Shifts are no multiples of it, so that no copy has the same patches.
    """
    shifts = [(0, 0)]
    for index in range(1, count):
        # Rounded towards zero; a multiple of the patch is taken one pixel further.
        x, y = (int((2 * ((index * step) % 1) - 1) * _REACH * side)
                for step, side in zip(_STEPS, size, strict=True))  # fmt: skip
        shifts.append((_off_grid(x, patch), _off_grid(y, patch)))
    return shifts


def _off_grid(shift: int, patch: int) -> int:
    if shift % patch:
        return shift
    return shift + 1 if shift >= 0 else shift - 1


def _moved(image: Tensor, shift: tuple[int, int]) -> Tensor:
    """The picture moved right and down; what comes into view is its reflection."""
    right, down = shift
    height, width = image.shape[1:]
    if abs(right) >= width or abs(down) >= height:
        raise ValueError(f"shift {shift} leaves nothing of {width}x{height}")
    margins = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    padded = functional.pad(image[None], margins, mode="reflect")[0]
    top, left = max(-down, 0), max(-right, 0)
    return padded[:, top : top + height, left : left + width]


def _both_ways(backbone: Backbone, copies: Tensor) -> Iterator[Tensor]:
    """``[B, h, w, C]`` of the copies, then of their mirror images, mirrored back."""
    yield backbone.tokens(copies)
    yield backbone.tokens(copies.flip(-1)).flip(2)


def _aligned(
    tokens: Tensor, shifts: Sequence[tuple[int, int]], size: tuple[int, int], patch: int
) -> tuple[Tensor, Tensor]:
    """Sums over the copies ``[h, w, C]``, and their weights ``[h, w]``, on the picture's grid."""
    height, width = tokens.shape[1:3]
    rows = torch.arange(height, device=tokens.device) * patch
    columns = torch.arange(width, device=tokens.device) * patch
    places, whole = [], []
    for right, down in shifts:
        # Centres of the picture's patches in the copy, in the -1..1 of grid_sample.
        x = 2 * (columns + patch / 2 + right) / size[0] - 1
        y = 2 * (rows + patch / 2 + down) / size[1] - 1
        places.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))
        inside = _inside(rows, down, size[1], patch)[:, None] & _inside(
            columns, right, size[0], patch
        )
        whole.append(inside)
    valid = torch.stack(whole)[:, None].float()
    layers = torch.cat([tokens.permute(0, 3, 1, 2) * valid, valid], dim=1)
    grid = torch.stack(places).to(layers)
    sampled = functional.grid_sample(layers, grid, padding_mode="zeros", align_corners=False)
    summed = sampled.sum(dim=0)
    return summed[:-1].permute(1, 2, 0), summed[-1]


def _inside(starts: Tensor, shift: int, side: int, patch: int) -> Tensor:
    """Which patches of a copy show nothing but the picture."""
    return (starts >= max(shift, 0)) & (starts + patch <= side + min(shift, 0))
