"""Gaussians to write, and how two sets of them are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fit3d_cli.geometry.gaussians import Gaussians

Make = Callable[..., Gaussians]


def _make(count: int = 300, degree: int = 3, seed: int = 1) -> Gaussians:
    """Gaussians inside the ranges that all formats can hold."""
    draw = torch.Generator().manual_seed(seed)
    sh = torch.randn(count, (degree + 1) ** 2, 3, generator=draw).clamp(-3, 3) * 0.3
    return Gaussians(
        means=torch.randn(count, 3, generator=draw) * 3,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1),
        scales=(torch.randn(count, 3, generator=draw).clamp(-3, 3) - 4).exp(),
        opacities=torch.rand(count, generator=draw),
        sh=sh,
    )


@pytest.fixture(scope="session")
def make() -> Make:
    return _make


def quat_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of a component; a quaternion and its negative are the same."""
    return float(torch.minimum((a - b).abs().amax(1), (a + b).abs().amax(1)).max())


@pytest.fixture(scope="session")
def quats_apart() -> Callable[[torch.Tensor, torch.Tensor], float]:
    return quat_distance
