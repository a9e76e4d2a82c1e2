"""Rival ``tiles``: dense alphas [256, K] per tile, padded batches of tiles, one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals import lists


def blend(geometry: Tensor, values: Tensor, batch: lists.Batch, across: int) -> Tensor:
    """``[B, 256, D]`` blocks of a batch of tiles.

    Args:
        geometry: ``[E, 6]`` of the batch's entries.
        values: ``[E, D]`` of the batch's entries.
        batch: The tiles.
        across: Tiles in a row of the picture.
    """
    x, y = lists.pixel_centres(batch.tiles, across)
    left = geometry.new_ones(*x.shape, 1)
    out = values.new_zeros(*x.shape, values.shape[1])
    for entries, valid in lists.slices(batch):
        # index_select: its adjoint is an index_add, much faster than that of indexing.
        chosen = geometry.index_select(0, entries.flatten()).view(*entries.shape, 6)
        alpha = lists.alphas(chosen[:, None], x[..., None], y[..., None]) * valid[:, None]
        after = torch.cumprod(1 - alpha, -1) * left
        alive = after > lists.TRANSMITTANCE_MIN
        weights = alpha * torch.cat([left, after[..., :-1]], -1) * alive
        rows = values.index_select(0, entries.flatten()).view(*entries.shape, -1)
        out = torch.baddbmm(out, weights, rows)
        left = after[..., -1:] * alive[..., -1:]
        if not bool(alive[..., -1].any()):
            break
    return out
