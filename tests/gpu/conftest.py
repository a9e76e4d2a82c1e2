"""Scenes of a size that only a GPU splats in a moment. Everything here needs one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians


@dataclass(frozen=True)
class Crowd:
    gaussians: Gaussians  # on the CPU
    viewmat: Tensor
    K: Tensor
    width: int
    height: int

    @property
    def camera(self) -> tuple[Tensor, Tensor, int, int]:
        return self.viewmat, self.K, self.width, self.height

    def geometry(self, device: torch.device) -> list[Tensor]:
        g = self.gaussians.to(device)
        return [g.means, g.quats, g.scales, g.opacities]


@pytest.fixture(scope="session")
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def crowd() -> Crowd:
    """Opacities stay below the clamp, which is 0.99 here and 0.999 in gsplat 1.5."""
    rng = torch.Generator().manual_seed(0)
    count, width, height = 30_000, 400, 304
    z = 2 + 6 * torch.rand(count, generator=rng)
    xy = (torch.rand(count, 2, generator=rng) - 0.5) * 1.3 * z[:, None]
    gaussians = Gaussians(
        means=torch.cat([xy, z[:, None]], dim=1),
        quats=torch.randn(count, 4, generator=rng),
        scales=torch.exp(0.6 * torch.randn(count, 3, generator=rng) - 3.6),
        opacities=0.98 * torch.sigmoid(2 * torch.randn(count, generator=rng)),
        sh=0.4 * torch.randn(count, 4, 3, generator=rng),
    )
    K = torch.tensor([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1.0]])
    return Crowd(gaussians, torch.eye(4), K, width, height)
