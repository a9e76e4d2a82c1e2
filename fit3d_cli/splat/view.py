"""One pinhole view as the splatting operations take it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

NEAR_PLANE = 0.01
FAR_PLANE = 1e10
EPS2D = 0.3  # pixels^2 added to the 2D covariance, as in 3DGS


@dataclass(frozen=True)
class View:
    """A camera, a picture size and the limits of what it sees.

    Attributes:
        viewmat: ``[4, 4]`` world to camera, OpenCV axes.
        K: ``[3, 3]`` intrinsics in pixels, without skew.
        width: Picture width in pixels.
        height: Picture height in pixels.
        near_plane: Gaussians whose centre is not farther than this are left out, world units.
        far_plane: Gaussians whose centre is not nearer than this are left out, world units.
        eps2d: Blur added to the 2D covariances, pixels squared.
    """

    viewmat: Tensor
    K: Tensor
    width: int
    height: int
    near_plane: float = NEAR_PLANE
    far_plane: float = FAR_PLANE
    eps2d: float = EPS2D

    def __post_init__(self) -> None:
        check_dims(viewmat=(self.viewmat, "4 4"), K=(self.K, "3 3"))
        if self.width < 1 or self.height < 1:
            raise ValueError(f"picture of {self.width} x {self.height} pixels")
        if not 0 < self.near_plane < self.far_plane:
            raise ValueError(f"near plane {self.near_plane}, far plane {self.far_plane}")
        if self.eps2d < 0:
            raise ValueError(f"eps2d is {self.eps2d}, expected >= 0")
        # In Python: a view is made for every picture, and 25 numbers are few.
        viewmat, K = self.viewmat.flatten().tolist(), self.K.flatten().tolist()
        if not all(map(math.isfinite, viewmat + K)):
            raise ValueError("viewmat or K holds a number that is not finite")
        if K[0] <= 0 or K[4] <= 0 or K[1] != 0:
            raise ValueError("K must have positive focal lengths and no skew")

    @property
    def center(self) -> Tensor:
        """``[3]`` camera centre in the world."""
        return -(self.viewmat[:3, :3].T @ self.viewmat[:3, 3])

    def to(self, dtype: torch.dtype) -> View:
        """The same view with the camera in another precision."""
        return View(
            self.viewmat.detach().to(dtype).contiguous(),
            self.K.detach().to(dtype).contiguous(),
            self.width,
            self.height,
            self.near_plane,
            self.far_plane,
            self.eps2d,
        )
