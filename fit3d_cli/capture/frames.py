"""Loading the pixels of a view: undistorted, masked, resized together with its camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.capture.base import View
from fit3d_cli.capture.distortion import undistortion_grid
from fit3d_cli.capture.registration import register_depth
from fit3d_cli.errors import ImageError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.images import (
    read_depth,
    read_mask,
    read_photo,
    resize_depth,
    resize_mask,
    resize_values,
)


@dataclass(frozen=True)
class Frame:
    """The pixels of one view, as a pinhole camera would have taken them.

    Attributes:
        image: ``[h, w, 3]`` float32 in 0..1.
        depth: ``[h, w]`` float32 along the optical axis in world units, 0 = unknown; None if
            the view has no depth or none was asked for.
        mask: ``[h, w]`` bool, True = use.
        camera: The view's one camera at this size.
    """

    image: Tensor
    depth: Tensor | None
    mask: Tensor
    camera: Cameras


def view_camera(view: View) -> Cameras:
    """The pinhole camera of a view at the stored photo's size (undistorted)."""
    return Cameras(view.viewmat[None], view.K[None], torch.tensor([[view.width, view.height]]))


def load_frame(view: View, width: int, height: int, *, depth: bool = True) -> Frame:
    """Read a view and resize it with its camera; never cropped, never rotated.

    A distorted photo is warped to the pinhole picture of the same K and size first: colour
    bilinear, depth and mask nearest. The mask is the mask file, the photo's alpha channel, and
    "the lens saw this pixel", combined by and. Depth of another camera is drawn straight into the
    result's pixels (``register_depth``).

    Args:
        view: What to load.
        width: Width of the result, pixels.
        height: Height of the result, pixels.
        depth: Whether to load the depth map, if there is one.

    Raises:
        ImageError: A file of the view is missing, damaged, or has changed its size.
    """
    pixels, alpha = read_photo(view.image_path)
    if pixels.shape[:2] != (view.height, view.width):
        raise ImageError(
            f"{pixels.shape[1]}x{pixels.shape[0]}, expected {view.width}x{view.height}",
            where=view.image_path,
            hint="do not change the photos of a capture; lift it again",
        )
    image = torch.from_numpy(pixels).to(torch.float32) / 255
    mask = torch.ones(view.height, view.width, dtype=torch.bool)
    if alpha is not None:
        mask &= torch.from_numpy(alpha)
    if view.mask_path is not None:
        stored = torch.from_numpy(read_mask(view.mask_path))
        mask &= resize_depth(stored, view.width, view.height)
    camera = view_camera(view).resized(width, height)
    zs = None
    measured = _measured(view) if depth else None
    if measured is not None and view.depth_camera is None:
        zs = resize_depth(measured, view.width, view.height)
    seen = None
    if view.distortion is not None:
        image, mask, zs, seen = _undistort(view, image, mask, zs)
    if measured is not None and view.depth_camera is not None:
        zs = register_depth(measured, view.depth_camera, camera.Ks[0], width, height)
        if seen is not None:
            zs = zs * resize_depth(seen, width, height)
    return Frame(
        # The triangle filter's weights may sum to 1 + 1 ulp.
        resize_values(image, width, height).clamp(0, 1),
        None if zs is None else resize_depth(zs, width, height),
        resize_mask(mask, width, height),
        camera,
    )


def stored_depth(view: View) -> Tensor | None:
    """Depth on the pixel grid of the stored photo, its lens distortion left in.

    Returns:
        ``[height, width]`` float32 along the optical axis in world units, 0 = unknown; None
        if the view has no depth.

    Raises:
        ImageError: The depth map is missing or damaged.
    """
    measured = _measured(view)
    if measured is None or view.depth_camera is None:
        return None if measured is None else resize_depth(measured, view.width, view.height)
    return register_depth(
        measured, view.depth_camera, view.K, view.width, view.height, view.distortion
    )


def _measured(view: View) -> Tensor | None:
    """The stored depth map in world units, 0 = unknown."""
    if view.depth_path is None:
        return None
    stored = torch.from_numpy(read_depth(view.depth_path))
    for value in view.depth_unknown:
        stored = stored.masked_fill(stored == value, 0.0)
    return stored / view.depth_scale


def _undistort(
    view: View, image: Tensor, mask: Tensor, zs: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Photo, mask and depth as a pinhole would see them, and which pixels the lens saw."""
    assert view.distortion is not None
    fx, fy = float(view.K[0, 0]), float(view.K[1, 1])
    cx, cy = float(view.K[0, 2]), float(view.K[1, 2])
    grid, inside = undistortion_grid(view.distortion, (fx, fy, cx, cy), view.width, view.height)

    def warp(values: Tensor, mode: str) -> Tensor:
        warped: Tensor = torch.nn.functional.grid_sample(
            values.permute(2, 0, 1)[None], grid, mode=mode, padding_mode="border",
            align_corners=False,
        )  # fmt: skip
        return warped[0].permute(1, 2, 0)

    image = warp(image, "bilinear").clamp(0, 1) * inside[:, :, None]
    mask = (warp(mask[:, :, None].to(torch.float32), "nearest")[:, :, 0] > 0.5) & inside
    if zs is not None:
        zs = warp(zs[:, :, None], "nearest")[:, :, 0] * inside
    return image, mask, zs, inside
