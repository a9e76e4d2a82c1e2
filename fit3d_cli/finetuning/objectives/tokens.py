"""What terms do with tokens: directions, features at places. No term lives here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Batch, Pairs
from fit3d_cli.geometry.grids import interpolate

_LENGTH = 1e-6  # below it a token has no direction


def unit(tokens: Tensor) -> Tensor:
    """``[..., C]`` tokens at length one; a zero token stays zero and passes no gradient."""
    length = tokens.norm(dim=-1, keepdim=True)
    known = length > _LENGTH
    return torch.where(known, tokens / torch.where(known, length, 1.0), 0.0)


def cosines(tokens: Tensor, others: Tensor) -> Tensor:
    """Cosine of each token ``[..., C]`` to its counterpart, ``[...]``; 0 where one is zero."""
    return (unit(tokens) * unit(others)).sum(-1)


def features_at(tokens: Tensor, places: Tensor) -> Tensor:
    """Directions of the bilinear features at places.

    Args:
        tokens: ``[h, w, C]`` of one picture.
        places: ``[P, 2]`` x and y in 0..1.

    Returns:
        ``[P, C]`` of length one.
    """
    return unit(interpolate(tokens, places.to(tokens.dtype)))


def point_counts(batch: Batch) -> Tensor:
    """``[I]`` correspondences of each pair of views: the weight of most terms on pairs."""
    counts = [len(pairs.points) for pairs in batch.pairs]
    return torch.tensor(counts, dtype=batch.weight.dtype, device=batch.weight.device)


def over_pairs(student: Tensor, batch: Batch, error: Callable[[Pairs], Tensor]) -> Tensor:
    """``[I]`` ``error`` of each pair of views; empty, yet differentiable, without pairs."""
    if not batch.pairs:
        return student.flatten()[:0]
    return torch.stack([error(pairs) for pairs in batch.pairs])
