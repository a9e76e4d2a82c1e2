"""W pooled onto a token grid on CUDA, and products with the sparse rows that result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fit3d_cli.splat.cuda.session import Session, session
from fit3d_cli.splat.engine import Rows

if TYPE_CHECKING:
    from fit3d_cli import _cuda as compiled


def pool(
    on: Session,
    lists: compiled.Lists,
    weights: compiled.Weights,
    items: int,
    h: int,
    w: int,
    tent: bool,
) -> Rows:
    """``(row_offsets [h w + 1], cols [nnz], vals [nnz])`` of W pooled onto a token grid.

    Args:
        on: Where to run.
        lists: The tile lists.
        weights: W.
        items: Number of list items.
        h: Rows of the grid.
        w: Columns of the grid.
        tent: Bilinear instead of box weights.
    """
    k, ints, longs = on.module, torch.int32, torch.int64
    what = "the token weights"
    counts = on.empty(what, items + 1, dtype=longs)
    scratch = on.scratch(k.pool_count_bytes(items))
    entries = on.call("pool_count", lists, weights, h, w, tent, counts, scratch)
    row_offsets = on.empty(what, h * w + 1, dtype=longs)
    cols, vals = on.empty(what, entries, dtype=ints), on.empty(what, entries)
    kept = on.call(
        "pool_fill", lists, weights, h, w, tent, counts, row_offsets, cols, vals,
        on.scratch(k.pool_fill_bytes(entries)),
    )  # fmt: skip
    # These rows live as long as a lift: room for entries that were merged is given back.
    return row_offsets, cols[:kept].clone(), vals[:kept].clone()


def csr_apply(matrix: Rows, x: Tensor, out: Tensor | None) -> Tensor:
    """``[rows, D]``: the sparse rows times ``x [columns, D]``, added to ``out`` if given."""
    offsets, cols, vals = matrix
    add = out is not None
    with session(x.device) as on:
        if out is None:
            out = on.empty("a sparse product", len(offsets) - 1, x.shape[1])
        if x.shape[1] > 0:
            on.call("csr_apply", offsets, cols, vals, x, add, out)
    return out


def csr_transpose(matrix: Rows, columns: int) -> Rows:
    """The transposed matrix; within its rows the columns ascend."""
    offsets, cols, vals = matrix
    what = "the transposed token weights"
    with session(vals.device) as on:
        result = (
            on.empty(what, columns + 1, dtype=torch.int64),
            on.empty(what, len(cols), dtype=torch.int32),
            on.empty(what, len(vals)),
        )
        size = on.module.csr_transpose_bytes(len(offsets) - 1, columns, len(cols))
        on.call("csr_transpose", offsets, cols, vals, *result, on.scratch(size))
    return result
