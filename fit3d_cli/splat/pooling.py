"""W pooled onto a token grid, and products with the sparse rows that result."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.splat import kernel
from fit3d_cli.splat.matrix import Weights


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
        out = torch.empty(len(offsets) - 1, x.shape[1])
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
