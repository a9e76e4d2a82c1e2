"""Fewer splats for the browser, the same scene for the queries."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians


def display_subset(gaussians: Gaussians, most: int) -> Tensor:
    """Which Gaussians to draw when there are more than a browser likes.

    Those with the largest opacity times area stay: the product of the two longer axes is what a
    Gaussian covers seen from its broad side.

    Args:
        gaussians: N Gaussians.
        most: How many may be drawn.

    Returns:
        ``[M]`` int64 ascending, all of them where ``N <= most``.
    """
    if len(gaussians) <= most:
        return torch.arange(len(gaussians))
    longer = gaussians.scales.double().sort(1).values[:, 1:]
    weight = gaussians.opacities.double() * longer.prod(1)
    return weight.argsort(descending=True, stable=True)[:most].sort().values.cpu()
