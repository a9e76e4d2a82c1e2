"""All tokens to learn from, view under view: the matrix ``A = [A_1; A_2; ...]``, T tokens by N.

Tokens are rows ``[T, c]`` in the order of the blocks. Sums over tokens or Gaussians run in pieces
of a fixed size, so that they have the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from fit3d_cli.allocator import settle
from fit3d_cli.lifting.store import Block, WeightStore
from fit3d_cli.splat.weights import TokenWeights
from fit3d_cli.tensorfile.overflow import Kept

Preconditioner = Literal["column", "row-sum", "jacobi"]

# Gaussians whose total weight over all views is below this were practically never seen.
UNSEEN = 1e-6
_PIECE = 8192  # rows


class Blocks(Protocol):
    """``A_v``, or stacks of them, by index."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int, /) -> TokenWeights:
        """One of them."""
        ...


class StoredBlocks:
    """The blocks of a store that hold any of some views.

    Args:
        store: Where they are.
        views: Indices of the views.

    Attributes:
        members: The views of each block, in the order of their rows.
        views: All of them.
    """

    def __init__(self, store: WeightStore, views: Sequence[int]) -> None:
        wanted = set(views)
        self._store = store
        self._blocks = [i for i, m in enumerate(store.members) if wanted.intersection(m)]
        self.members = [store.members[i] for i in self._blocks]
        self.views = [view for members in self.members for view in members]

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> TokenWeights:
        return self._store.block(self._blocks[index])


class Stacked:
    """Products with A.

    Args:
        blocks: What A consists of; read once per product.

    Raises:
        ValueError: There are none.
    """

    def __init__(self, blocks: Blocks) -> None:
        if not len(blocks):
            raise ValueError("no views to lift from")
        self._blocks = blocks
        self._ends = []
        end = 0
        for i in range(len(blocks)):
            block = blocks[i]
            end += block.h * block.w
            self._ends.append(end)
            self.count, self.device = block.count, block.vals.device
        self.tokens = end

    def spans(self) -> Iterator[tuple[TokenWeights, int, int]]:
        """Each block with its first row and the one after its last."""
        begin = 0
        for i, end in enumerate(self._ends):
            yield self._blocks[i], begin, end
            settle()
            begin = end

    def apply(self, features: Tensor) -> Tensor:
        """``[T, c]``: A times ``features [N, c]``."""
        out = features.new_empty(self.tokens, features.shape[1])
        for block, begin, end in self.spans():
            out[begin:end] = block.apply(features).view(end - begin, -1)
        return out

    def apply_t(self, rows: Tensor, out: Tensor) -> Tensor:
        """``out [N, c]``, overwritten: A transposed times ``rows [T, c]``."""
        out.zero_()
        for block, begin, end in self.spans():
            block.apply_t(rows[begin:end].view(block.h, block.w, -1), out=out)
        return out

    def normal(
        self, features: Tensor, trust: Tensor, out: Tensor, watched: Tensor | None = None
    ) -> Tensor:
        """``out [N, c]``, overwritten: ``A^T diag(trust) A features``, block by block.

        Args:
            features: ``[N, c]``.
            trust: ``[T, 1]`` weight of each token.
            out: Where the product goes.
            watched: ``[R]`` int64 on the CPU, ascending; None is no token.

        Returns:
            ``[R, c]``: ``A features`` at these tokens.
        """
        out.zero_()
        shown = []
        for block, begin, end in self.spans():
            made = block.apply(features)
            rows = made.view(end - begin, -1)
            shown.append(rows[within(watched, begin, end)])
            rows *= trust[begin:end]
            block.apply_t(made, out=out)
        return torch.cat(shown)

    def gradient(
        self,
        codes: Rows,
        features: Tensor,
        trust: Tensor,
        out: Tensor,
        watched: Tensor | None = None,
    ) -> Tensor:
        """``out [N, c]``, overwritten: ``A^T diag(trust) (codes - A features)``.

        Arguments and result are those of ``normal``, with ``codes [T, c]``.
        """
        out.zero_()
        shown = []
        for block, begin, end in self.spans():
            made = block.apply(features)
            rows = made.view(end - begin, -1)
            shown.append(rows[within(watched, begin, end)])
            torch.sub(codes[begin:end], rows, out=rows).mul_(trust[begin:end])
            block.apply_t(made, out=out)
        return torch.cat(shown)

    def pick(self, codes: Rows, watched: Tensor) -> Tensor:
        """``[R, d]``: some rows of ``codes [T, d]``; ``watched`` as in ``normal``."""
        return torch.cat(
            [codes[begin:end][within(watched, begin, end)] for _, begin, end in self.spans()]
        )

    def column(self, trust: Tensor) -> Tensor:
        """``[N, 1]``: the weight of every Gaussian over all tokens, ``A^T trust``."""
        return self.apply_t(trust, torch.empty(self.count, 1, device=self.device))

    def diagonal(self, kind: Preconditioner, trust: Tensor) -> Tensor:
        """``[N, 1]``: a diagonal that stands for ``A^T diag(trust) A``.

        ``column`` is ``A^T trust`` (SIRT's). ``row-sum`` is ``A^T diag(trust) A 1`` (mass lumping):
        it exceeds ``A^T diag(trust) A`` by a graph Laplacian, so that a Richardson step of one
        never increases the error. ``jacobi`` is the true diagonal.

        Args:
            kind: Which.
            trust: ``[T, 1]`` weight of each token.
        """
        if kind == "column":
            return self.column(trust)
        if kind == "row-sum":
            return self.column(trust * self.apply(torch.ones(self.count, 1, device=self.device)))
        out = torch.zeros(self.count, 1, device=self.device)
        for block, begin, end in self.spans():
            offsets, rows, vals = block.transposed()
            squared = Block(
                block.h, block.w, block.count, block.row_offsets, block.cols, block.vals,
                block.threads, (offsets, rows, vals.square()),
            )  # fmt: skip
            squared.apply_t(trust[begin:end].view(block.h, block.w, 1), out=out)
        return out


class Rows(Protocol):
    """``[T, d]`` numbers per token, block by block; a tensor is one."""

    @property
    def shape(self) -> Sequence[int]:
        """``(T, d)``."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """The rows of one block."""
        ...


class StoredRows:
    """Rows that were put away block by block.

    Args:
        blocks: ``[rows, d]`` each, in the order of the blocks.
    """

    def __init__(self, blocks: Sequence[Kept]) -> None:
        self._blocks: dict[tuple[int, int], Kept] = {}
        end = 0
        for block in blocks:
            begin, end = end, end + block.shape[0]
            self._blocks[begin, end] = block
        self.shape = (end, blocks[0].shape[1])

    def __getitem__(self, rows: slice) -> Tensor:
        return self._blocks[rows.start, rows.stop].get()


class Columns:
    """Some columns of rows.

    Args:
        rows: Of what.
        channels: Which; both ends and the step are given.
    """

    def __init__(self, rows: Rows, channels: slice) -> None:
        self._rows, self._channels = rows, channels
        self.shape = (rows.shape[0], len(range(*channels.indices(rows.shape[1]))))

    def __getitem__(self, rows: slice) -> Tensor:
        return self._rows[rows][:, self._channels].contiguous()


def within(rows: Tensor | None, begin: int, end: int) -> Tensor:
    """Those of the ascending ``rows [R]`` in a block, counted from its first."""
    if rows is None:
        # No slice: an empty view of a block would keep the whole of it.
        return torch.empty(0, dtype=torch.int64)
    first, last = torch.searchsorted(rows, torch.tensor([begin, end])).tolist()
    return rows[first:last] - begin


def dots(a: Tensor, b: Tensor, scale: Tensor | None = None) -> Tensor:
    """``[c]`` float64: column by column the sum of ``a b`` or ``a b scale`` over the rows.

    Args:
        a: ``[R, c]``.
        b: ``[R, c]``.
        scale: ``[R, 1]`` or None.
    """
    total = a.new_zeros(a.shape[1], dtype=torch.float64)
    for begin in range(0, len(a), _PIECE):
        piece = slice(begin, begin + _PIECE)
        product = a[piece] * b[piece]
        if scale is not None:
            product *= scale[piece]
        total += product.sum(0)
    return total
