"""The photos of a capture at one size, compact enough to keep in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.images import fit_size
from fit3d_cli.progress import OnEvent, Progress


@dataclass(frozen=True)
class Frames:
    """Loaded views, 8 bytes a pixel.

    Attributes:
        images: ``[H, W, 3]`` uint8 each.
        depths: ``[H, W]`` float32 in world units, 0 = unknown, or None each.
        masks: ``[H, W]`` bool each, True = use.
        cameras: One per view, at this size.
    """

    images: tuple[Tensor, ...]
    depths: tuple[Tensor | None, ...]
    masks: tuple[Tensor, ...]
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int, device: torch.device | str = "cpu") -> Tensor:
        """``[H, W, 3]`` float32 in 0..1, on a device."""
        return self.images[index].to(device).float() / 255

    def size(self, index: int) -> tuple[int, int]:
        """``(width, height)`` of one view."""
        width, height = self.cameras.sizes[index].tolist()
        return int(width), int(height)


def load_frames(capture: Capture, width: int, on_event: OnEvent, *, stage: str) -> Frames:
    """Load every view, undistorted and resized to about ``width`` pixels.

    Args:
        capture: The capture.
        width: Target width in pixels.
        on_event: Told about each view.
        stage: Name of the stage in events.
    """
    images, depths, masks, cameras = [], [], [], []
    for done, view in enumerate(capture.views):
        on_event(Progress(stage, done, len(capture.views)))
        size = fit_size(view.width, view.height, width)
        frame = load_frame(view, *size)
        images.append((frame.image * 255).round().clamp(0, 255).to(torch.uint8))
        depths.append(frame.depth)
        masks.append(frame.mask)
        cameras.append(frame.camera)
    on_event(Progress(stage, len(capture.views), len(capture.views)))
    return Frames(tuple(images), tuple(depths), tuple(masks), stack_cameras(cameras))
