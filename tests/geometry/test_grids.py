"""Interpolation of grids against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fit3d_cli.geometry.grids import interpolate


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 4)])
def test_interpolation_is_torchs_bilinear_at_every_pixel(size: tuple[int, int]) -> None:
    grid = torch.rand(*size, 3, generator=torch.Generator().manual_seed(0))
    height, width = 23, 31
    expected = nn.functional.interpolate(
        grid.permute(2, 0, 1)[None], size=(height, width), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).reshape(-1, 2)
    found = interpolate(grid, places).reshape(height, width, 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
