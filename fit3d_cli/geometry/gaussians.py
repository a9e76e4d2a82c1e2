"""The Gaussians of a scene, in activated units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

SH_C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians.

    Attributes:
        means: ``[N, 3]`` centres in the world.
        quats: ``[N, 4]`` rotations, wxyz, unit length.
        scales: ``[N, 3]`` standard deviations, > 0, world units.
        opacities: ``[N]`` in [0, 1].
        sh: ``[N, K, 3]`` spherical-harmonic colour, K = (degree + 1)^2.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        dims = check_dims(
            means=(self.means, "N 3"),
            quats=(self.quats, "N 4"),
            scales=(self.scales, "N 3"),
            opacities=(self.opacities, "N"),
            sh=(self.sh, "N K 3"),
        )
        if dims["K"] not in (1, 4, 9, 16):
            raise ValueError(f"sh has {dims['K']} coefficients, expected 1, 4, 9 or 16")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics: 0 to 3."""
        return int(self.sh.shape[1] ** 0.5) - 1

    def select(self, index: Tensor) -> Gaussians:
        """The Gaussians at ``index`` (integer or boolean tensor)."""
        return Gaussians(
            self.means[index],
            self.quats[index],
            self.scales[index],
            self.opacities[index],
            self.sh[index],
        )

    def to(self, device: torch.device | str) -> Gaussians:
        """The same Gaussians on another device."""
        return Gaussians(
            self.means.to(device),
            self.quats.to(device),
            self.scales.to(device),
            self.opacities.to(device),
            self.sh.to(device),
        )


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """Degree-0 coefficient of a colour: ``sh * SH_C0 + 0.5 = rgb`` (3DGS convention)."""
    return (rgb - 0.5) / SH_C0
