"""Losses of the heads."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

_EPS = 1e-3


def sig_loss(predicted: Tensor, truth: Tensor, *, warm_up: bool = False) -> Tensor:
    """Scale-invariant log loss ``sqrt(var(g) + 0.15 mean(g)^2)``, ``g`` the log difference.

    AdaBins (arXiv:2011.14141, equation 2) as DINOv2's depth protocol uses it.

    Args:
        predicted: ``[P]`` positive depths.
        truth: ``[P]`` measured depths, P > 1.
        warm_up: Only the mean term: first find the scale, then the shape.
    """
    check_dims(predicted=(predicted, "P"), truth=(truth, "P"))
    difference = torch.log(predicted + _EPS) - torch.log(truth + _EPS)
    level = 0.15 * difference.mean().square()
    # The square root has no slope at zero.
    return torch.sqrt((level if warm_up else level + difference.var()) + 1e-12)
