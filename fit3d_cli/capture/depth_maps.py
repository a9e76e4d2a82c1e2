"""Depth maps of the photo's own lens at another resolution, as phones with LiDAR store them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import DepthCamera
from fit3d_cli.images import image_size


def depth_beside(
    path: Path, K: Tensor, width: int, height: int
) -> tuple[Path | None, DepthCamera | None]:
    """A depth map that shows what the photo shows, if it is there.

    Args:
        path: Where it would lie; only its size is looked at.
        K: ``[3, 3]`` intrinsics of the photo.
        width: Width that ``K`` is for, pixels.
        height: Height that ``K`` is for, pixels.

    Returns:
        ``depth_path`` and ``depth_camera`` of the view: ``K`` at the depth map's resolution, at
        the photo's place. No camera where the depth map lies on the photo's pixels, or is of
        another aspect, which the common checks tell.

    Raises:
        ImageError: The depth map's header cannot be read.
    """
    if not path.is_file():
        return None, None
    wide, high = image_size(path)
    if (wide, high) == (width, height) or abs(high - wide * height / width) > 1:
        return path, None
    scale = torch.tensor([wide / width, high / height, 1.0], dtype=torch.float64)
    return path, DepthCamera(K * scale[:, None], torch.eye(4, dtype=torch.float64))
