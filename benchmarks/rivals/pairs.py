"""Rival ``pairs``: the algorithm of gsplat's torch reference (``accumulate``).

All contributing (pixel, Gaussian) pairs of a step are gathered, their alphas computed again, their
weights found by an exclusive cumulative product within each pixel, and weight times value is
added up per pixel. gsplat finds the pairs with a CUDA op; here dense alphas of a batch of tiles
find them, which is the cheapest way in torch that was tried (listing the pixels of each
Gaussian's rows and sorting them by pixel took longer).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals import lists
from fit3d_cli.splat.view import View


def blend(geometry: Tensor, values: Tensor, batch: lists.Batch, across: int) -> Tensor:
    """``[B, 256, D]`` blocks of a batch of tiles; arguments as in ``tiles.blend``."""
    x, y = lists.pixel_centres(batch.tiles, across)
    pixels = x.numel()
    left = geometry.new_ones(pixels)
    out = values.new_zeros(pixels, values.shape[1])
    for entries, valid in lists.slices(batch):
        pixel, entry, alive = _contributing(geometry.detach(), entries, valid, x, y, left.detach())
        alpha = lists.alphas(
            geometry.index_select(0, entry), x.view(-1)[pixel], y.view(-1)[pixel]
        )  # [M]
        # Exclusive product within a pixel, as a difference of logarithms; double precision, as
        # the running sum goes over all pixels.
        log = torch.log1p(-alpha.double())
        running = torch.cat([log.new_zeros(1), log.cumsum(0)])
        ends = torch.bincount(pixel, minlength=pixels).cumsum(0)
        begins = torch.cat([ends.new_zeros(1), ends[:-1]])
        before = torch.exp(running[:-1] - running[begins][pixel]).float()
        weight = alpha * before * left.index_select(0, pixel)
        gathered = values.index_select(0, entry)  # [M, D]
        out = out.index_add(0, pixel, weight[:, None] * gathered)
        left = left * torch.exp(running[ends] - running[begins]).float() * alive
        if not bool(alive.any()):
            break
    return out.view(*x.shape, -1)


@torch.no_grad()
def _contributing(
    geometry: Tensor, entries: Tensor, valid: Tensor, x: Tensor, y: Tensor, left: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``(pixel [M], entry [M], alive [pixels])`` of a slice, pixel by pixel, front to back."""
    alpha = lists.alphas(geometry[entries][:, None], x[..., None], y[..., None]) * valid[:, None]
    after = torch.cumprod(1 - alpha, -1) * left.view(*x.shape, 1)
    alive = after > lists.TRANSMITTANCE_MIN
    pixel, place = torch.nonzero(((alpha > 0) & alive).flatten(0, 1)).unbind(1)
    tile = torch.div(pixel, x.shape[1], rounding_mode="floor")
    return pixel, entries[tile, place], alive[..., -1].flatten()


@torch.no_grad()
def count(flat: lists.Flat, found: lists.Lists, view: View) -> int:
    """Contributing (pixel, Gaussian) pairs of a view: the non-zeros of W."""
    total = 0
    for batch in found.batches:
        x, y = lists.pixel_centres(batch.tiles, -(-view.width // lists.TILE))
        inside = (x < view.width) & (y < view.height)
        geometry = flat.geometry[found.ids[batch.first : batch.last]]
        left = inside.float().flatten()
        for entries, valid in lists.slices(batch):
            alpha = lists.alphas(geometry[entries][:, None], x[..., None], y[..., None])
            after = torch.cumprod(1 - alpha * valid[:, None], -1) * left.view(*x.shape, 1)
            alive = after > lists.TRANSMITTANCE_MIN
            total += int(((alpha * valid[:, None] > 0) & alive).sum())
            left = (after[..., -1] * alive[..., -1]).flatten()
    return total
