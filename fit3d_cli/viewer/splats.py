"""Gaussians in the form in which viser draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import quats_to_matrices

_TYPICAL = 0.05  # deviation to which the median Gaussian is scaled for the transport
_LARGEST = 200.0  # squared it still fits into half precision


@dataclass(frozen=True)
class Splats:
    """Centres and covariances in units that suit half precision.

    viser sends covariances as 16-bit floats. Those of millimetre-sized Gaussians would be
    rounded to nothing, so everything is scaled up here and down again by the scene node.

    Attributes:
        centers: ``[N, 3]`` float32, scaled.
        covariances: ``[N, 3, 3]`` float32, scaled.
        scale: What undoes the scaling.
    """

    centers: NDArray[np.float32]
    covariances: NDArray[np.float32]
    scale: float


def make_splats(gaussians: Gaussians) -> Splats:
    """The geometry of N Gaussians for ``add_gaussian_splats``."""
    typical = float(gaussians.scales.amax(1).median()) if len(gaussians) else 1.0
    factor = _TYPICAL / max(typical, 1e-12)
    scales = (gaussians.scales.cpu() * factor).clamp(max=_LARGEST)
    axes = quats_to_matrices(gaussians.quats.cpu()) * scales[:, None, :]
    covariances = axes @ axes.transpose(1, 2)
    return Splats((gaussians.means.cpu() * factor).numpy(), covariances.numpy(), 1.0 / factor)


def to_bytes(colours: Tensor) -> NDArray[np.uint8]:
    """``[N, 3]`` colours in 0..1 to 8 bits."""
    rounded: NDArray[np.uint8] = (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return rounded


def repaint(handle: Any, colours: Tensor, opacities: Tensor) -> None:
    """New colours ``[N, 3]`` and opacities ``[N]`` in 0..1 for drawn splats, in one message."""
    buffer = handle.buffer.copy()
    rgba = buffer[:, 7:8].view(np.uint8).reshape(-1, 4)
    rgba[:, :3] = to_bytes(colours)
    rgba[:, 3] = to_bytes(opacities[:, None])[:, 0]
    handle.buffer = buffer
