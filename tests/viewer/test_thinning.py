"""Which splats are drawn."""

from __future__ import annotations

import torch

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.viewer.thinning import display_subset


def test_opacity_times_area_decides() -> None:
    scales = torch.tensor([[1.0, 1, 0.1], [0.1, 3, 0.1], [1, 1, 1], [0.5, 2, 2], [1, 1, 0.1]])
    opacities = torch.tensor([0.5, 1.0, 0.9, 0.2, 0.5])
    gaussians = Gaussians(
        torch.zeros(5, 3), torch.tensor([[1.0, 0, 0, 0]]).repeat(5, 1), scales, opacities,
        torch.zeros(5, 1, 3),
    )  # fmt: skip
    # Opacity times the two longer axes: 0.5, 0.3, 0.9, 0.8, 0.5.
    assert display_subset(gaussians, 2).tolist() == [2, 3]
    assert display_subset(gaussians, 3).tolist() == [0, 2, 3]  # the first of two equals
    assert display_subset(gaussians, 5).tolist() == [0, 1, 2, 3, 4]
    assert display_subset(gaussians, 50).tolist() == [0, 1, 2, 3, 4]
