"""Quaternions in few bits: the largest component is left out, the others fit into +-1/sqrt(2)."""

from __future__ import annotations

import torch
from torch import Tensor

_OTHERS = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def smallest_three(largest: Tensor, others: Tensor) -> Tensor:
    """Unit quaternions from three components and the place of the one that is left out.

    Args:
        largest: ``[M]`` int64 in 0..3, the place of the largest component, which is positive.
        others: ``[M, 3]`` the other components in their order.

    Returns:
        ``[M, 4]`` float32 in the order that ``largest`` counts in.
    """
    wide = others.double()
    quats = torch.empty(len(wide), 4, dtype=torch.float64)
    quats.scatter_(1, _OTHERS[largest], wide)
    rest = (1 - wide.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    quats.scatter_(1, largest[:, None], rest)
    return torch.nn.functional.normalize(quats, dim=1).float()


def drop_largest(quats: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of ``smallest_three``: ``[M]`` places and ``[M, 3]`` float64 components.

    A quaternion and its negative are the same rotation: the one whose largest component is
    positive is taken.
    """
    wide = torch.nn.functional.normalize(quats.double(), dim=1)
    largest = wide.abs().argmax(1)
    wide = wide * torch.where(wide.gather(1, largest[:, None]) < 0, -1.0, 1.0)
    return largest, wide.gather(1, _OTHERS[largest])
