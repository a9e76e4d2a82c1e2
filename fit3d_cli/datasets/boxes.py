"""Rectangles of the published depth protocols, on the pixel grid of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.errors import DatasetError


@dataclass(frozen=True)
class PixelBox:
    """Rows ``top .. bottom - 1`` and columns ``left .. right - 1``.

    Attributes:
        top: First row.
        bottom: Row behind the last one.
        left: First column.
        right: Column behind the last one.
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the last two axes of a ``[..., H, W]`` tensor or array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def require_inside(self, height: int, width: int, *, where: str) -> None:
        """Check that the box lies in a picture.

        Args:
            height: Of the picture.
            width: Of the picture.
            where: What the message names.

        Raises:
            DatasetError: It does not; a part of it would be another protocol.
        """
        if not (0 <= self.top < self.bottom <= height and 0 <= self.left < self.right <= width):
            raise DatasetError(
                f"the protocol's rows {self.top}:{self.bottom}, columns {self.left}:{self.right}"
                f" do not lie in a picture of {width}x{height}",
                where=where,
                hint="use the pictures in their published size",
            )

    def mask(self, height: int, width: int, *, where: str) -> Tensor:
        """``[height, width]`` bool, True inside.

        Raises:
            DatasetError: As ``require_inside``.
        """
        self.require_inside(height, width, where=where)
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[self.slices] = True
        return inside


# Eigen et al. score NYU (640x480) here; the border of the registered depth is unreliable.
EIGEN_BOX = PixelBox(45, 471, 41, 601)
# The training pictures of NYU lose the white frame of the registration (BTS, AdaBins).
NYU_TRAIN_BOX = PixelBox(45, 472, 43, 608)
KITTI_CROP = (352, 1216)


def garg_box(height: int, width: int) -> PixelBox:
    """Garg et al.'s crop (arXiv:1603.04992), as fractions of a KITTI picture."""
    return PixelBox(
        int(0.40810811 * height), int(0.99189189 * height),
        int(0.03594771 * width), int(0.96405229 * width),
    )  # fmt: skip


def kb_box(height: int, width: int, *, where: str) -> PixelBox:
    """The KITTI benchmark's crop of 352 x 1216: the bottom rows, the middle columns.

    Raises:
        DatasetError: The picture is smaller.
    """
    top, left = height - KITTI_CROP[0], (width - KITTI_CROP[1]) // 2
    box = PixelBox(top, height, left, left + KITTI_CROP[1])
    box.require_inside(height, width, where=where)
    return box
