"""W pooled onto a token grid, and products with the sparse rows that result."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.splat import kernel, matrix
from fit3d_cli.splat.matrix import Weights
from fit3d_cli.splat.memory import empty


def pool(
    weights: Weights, h: int, w: int, tent: bool, threads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``(row_offsets [h w + 1], cols [nnz], vals [nnz])`` of W pooled onto a token grid."""
    k = kernel.load()
    stamps = torch.full((threads, weights.count), -1, dtype=torch.int32)
    offsets = torch.zeros(h * w + 1, dtype=torch.int64)
    k.pool_count(weights.lists, weights.entries, h, w, tent, stamps, offsets[1:], threads)
    offsets.cumsum_(0)
    nnz = int(offsets[-1])
    cols, vals = torch.empty(nnz, dtype=torch.int32), torch.empty(nnz)
    k.pool_fill(
        weights.lists,
        weights.entries,
        h,
        w,
        tent,
        stamps,
        torch.empty(threads, weights.count),
        offsets,
        cols,
        vals,
        threads,
    )
    return offsets, cols, vals


def pool_view(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    h: int,
    w: int,
    tent: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """``pool(build_weights(...), ...)`` without W: each tile sums what it gives to its tokens.

    Where a tile touches more than 16 tokens, W is the cheaper way and is taken.

    Raises:
        EnvironmentFault: There is not enough memory, or too many pairs.
    """
    k = kernel.load()
    geometry = (means2d, conics, depths, radii, opacities, width, height, threads)
    most = k.most_tokens(width, height, h, w, tent)
    if most > k.MOST_TOKENS:
        return pool(matrix.build_weights(*geometry), h, w, tent, threads)
    binned = matrix.bin_view(*geometry)
    room = binned.pairs * most
    ints, longs = torch.int32, torch.int64
    storage = binned.storage
    ids = storage["piece_ids"] = matrix.spare.take("piece_ids", room, dtype=ints)
    sums = storage["piece_sums"] = matrix.spare.take("piece_sums", room)
    counts = torch.empty(binned.tiles * most, dtype=ints)
    bounds, offsets = torch.empty(h * w + 1, dtype=longs), torch.zeros(h * w + 1, dtype=longs)
    grid = (h, w, tent, most)
    padded = binned.longest + matrix.LANES
    scratch = empty(threads, (matrix.LANES * most + 9) * padded + 32)
    total = k.token_pieces(
        binned.lists, binned.masks, *grid, counts, ids, sums, bounds, scratch, threads
    )
    merged = storage["merged"] = matrix.spare.take("merged", 2 * total, dtype=longs)
    k.token_merge(
        binned.lists, *grid, counts, ids, sums, bounds, len(depths), merged, offsets[1:], threads
    )
    offsets.cumsum_(0)
    nnz = int(offsets[-1])
    cols, vals = torch.empty(nnz, dtype=ints), torch.empty(nnz)
    k.token_pack(bounds, offsets, merged, cols, vals, threads)
    matrix.spare.give(storage)
    return offsets, cols, vals


def csr_apply(
    offsets: Tensor,
    cols: Tensor,
    vals: Tensor,
    x: Tensor,
    threads: int,
    out: Tensor | None = None,
) -> Tensor:
    """``[rows, D]``: the sparse matrix times ``x [columns, D]``, added to ``out`` if given."""
    add = out is not None
    if out is None:
        out = empty(len(offsets) - 1, x.shape[1])
    kernel.load().csr_apply(offsets, cols, vals, x, add, out, threads)
    return out


def csr_transpose(
    offsets: Tensor, cols: Tensor, vals: Tensor, t_offsets: Tensor, t_rows: Tensor, t_vals: Tensor
) -> None:
    """Write the transposed matrix; within a column the rows stay ascending."""
    kernel.load().csr_transpose(
        offsets,
        cols,
        vals,
        t_offsets,
        t_rows,
        t_vals,
    )
