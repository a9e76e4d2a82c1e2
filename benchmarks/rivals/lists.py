"""What both torch rasterisers share: projection, tile lists, alphas of a block of tiles.

The projection is gsplat's own torch code, which runs on the CPU. gsplat's ``_isect_tiles`` runs
there too, but as a Python loop over Gaussians that takes minutes: the lists here are the same,
vectorised, with the opacity-aware boxes of gsplat's CUDA kernel. Its rasteriser needs CUDA ops and
is replaced by ``pairs.py`` and ``tiles.py``. Everything is differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci
from torch import Tensor

from fit3d_cli.splat.view import View

TILE = 16
ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN = 1 / 255, 0.99, 1e-4
# Tiles blended at once, and list positions taken at once. The fastest of 1..64 x 32..256 by CPU
# time of one thread on a scene of 366,000 Gaussians; they also bound the memory.
BATCH_TILES, SLICE = 8, 128


class Inputs(NamedTuple):
    """What is splatted: N Gaussians, N x D values."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    values: Tensor


class Flat(NamedTuple):
    """Projected Gaussians.

    Attributes:
        geometry: ``[N, 6]`` x, y, conic (xx, xy, yy), opacity.
        depths: ``[N]``.
        seen: ``[N]`` bool.
    """

    geometry: Tensor
    depths: Tensor
    seen: Tensor


class Batch(NamedTuple):
    """Tiles with lists of similar length; their entries lie one after another.

    Attributes:
        tiles: ``[B]`` tile numbers, row-major.
        first: First entry of the batch.
        last: One past its last entry.
        start: ``[B]`` first entry of each tile, counted from ``first``.
        length: ``[B]`` numbers of entries, not rising.
    """

    tiles: Tensor
    first: int
    last: int
    start: Tensor
    length: Tensor


class Lists(NamedTuple):
    """``ids [E]``: the Gaussian of each (Gaussian, tile) pair, front to back; the batches."""

    ids: Tensor
    batches: list[Batch]


def project(inputs: Inputs, view: View) -> Flat:
    """Projection of N Gaussians by gsplat's torch code, in single precision."""
    view = view.to(torch.float32)
    covars, _ = _quat_scale_to_covar_preci(inputs.quats, inputs.scales, compute_preci=False)
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        inputs.means, covars, view.viewmat[None], view.K[None], view.width, view.height,
        view.eps2d, view.near_plane, view.far_plane,
    )  # fmt: skip
    seen = (radii[0] > 0).all(1) & (inputs.opacities >= ALPHA_MIN)
    return Flat(torch.cat([means2d[0], conics[0], inputs.opacities[:, None]], 1), depths[0], seen)


@torch.no_grad()
def bin_tiles(flat: Flat, width: int, height: int, batch: int = BATCH_TILES) -> Lists:
    """Tile lists of a view, in batches, longest lists first."""
    index = torch.nonzero(flat.seen)[:, 0]
    index = index[torch.argsort(flat.depths[index], stable=True)]
    x, y, a, b, c, opacity = flat.geometry[index].unbind(1)
    across, down = -(-width // TILE), -(-height // TILE)
    reach = 2 * torch.log(255 * opacity) / (a * c - b * b)
    half_x, half_y = torch.sqrt(reach * c), torch.sqrt(reach * a)
    x0 = ((x - half_x) / TILE).floor().clamp(0, across).long()
    x1 = ((x + half_x) / TILE).ceil().clamp(0, across).long()
    y0 = ((y - half_y) / TILE).floor().clamp(0, down).long()
    y1 = ((y + half_y) / TILE).ceil().clamp(0, down).long()
    count = (x1 - x0) * (y1 - y0)
    owner = torch.repeat_interleave(torch.arange(len(count)), count)
    place = torch.arange(len(owner)) - (count.cumsum(0) - count)[owner]
    wide = (x1 - x0)[owner]
    tile = (y0[owner] + place // wide) * across + x0[owner] + place % wide
    lengths = torch.bincount(tile, minlength=across * down)
    order = torch.argsort(lengths, descending=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    # int32 keys and a stable sort: torch has a radix sort for these.
    position = torch.sort(rank[tile].int(), stable=True).indices
    order = order[lengths[order] > 0]
    offsets = torch.cat([lengths.new_zeros(1), lengths[order].cumsum(0)])
    batches = []
    for number, tiles in enumerate(order.split(batch)):
        begin = number * batch
        first, last = int(offsets[begin]), int(offsets[begin + len(tiles)])
        start = offsets[begin : begin + len(tiles)] - first
        batches.append(Batch(tiles, first, last, start, lengths[tiles]))
    return Lists(index[owner[position]], batches)


def slices(batch: Batch, size: int = SLICE) -> Iterator[tuple[Tensor, Tensor]]:
    """``entries [B, K]`` within the batch and ``valid [B, K]``, front to back, padded."""
    longest = int(batch.length[0])
    for first in range(0, longest, size):
        position = torch.arange(first, min(first + size, longest))
        valid = position < batch.length[:, None]
        yield batch.start[:, None] + torch.where(valid, position, 0), valid


def pixel_centres(tiles: Tensor, across: int) -> tuple[Tensor, Tensor]:
    """``x [B, 256]`` and ``y [B, 256]`` of the tiles' pixels, row-major."""
    lane = torch.arange(TILE * TILE)
    x = (tiles % across * TILE)[:, None] + lane % TILE + 0.5
    y = (tiles // across * TILE)[:, None] + lane // TILE + 0.5
    return x, y


def alphas(geometry: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Alphas, 0 where below 1/255, of ``geometry [..., 6]`` at pixels (shapes broadcast)."""
    mean_x, mean_y, a, b, c, opacity = geometry.unbind(-1)
    dx, dy = mean_x - x, mean_y - y
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacity * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    return torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)


def untile(blocks: Tensor, width: int, height: int) -> Tensor:
    """``[H, W, D]`` picture of ``blocks [tiles, 256, D]``."""
    across, down = -(-width // TILE), -(-height // TILE)
    rows = blocks.view(down, across, TILE, TILE, -1).transpose(1, 2)
    return rows.reshape(down * TILE, across * TILE, -1)[:height, :width]


def tiled(picture: Tensor) -> Tensor:
    """``[tiles, 256, D]`` blocks of ``picture [H, W, D]``; 0 beyond its border."""
    height, width, dim = picture.shape
    across, down = -(-width // TILE), -(-height // TILE)
    padded = torch.nn.functional.pad(
        picture, (0, 0, 0, across * TILE - width, 0, down * TILE - height)
    )
    rows = padded.view(down, TILE, across, TILE, dim).transpose(1, 2)
    return rows.reshape(across * down, TILE * TILE, dim)
