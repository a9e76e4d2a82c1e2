"""The photos of a capture at one size: compact, and in memory only as far as a budget goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.images import fit_size
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.tensorfile.overflow import Kept, KeptList, Overflow


@dataclass(frozen=True)
class Frames:
    """Loaded views, 8 bytes a pixel.

    Attributes:
        images: ``[H, W, 3]`` uint8 each.
        depths: ``[H, W]`` float32 in world units, 0 = unknown, or None each.
        masks: ``[H, W]`` bool each, True = use.
        cameras: One per view, at this size.
    """

    images: Sequence[Tensor]
    depths: Sequence[Tensor | None]
    masks: Sequence[Tensor]
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


def load_frames(
    capture: Capture,
    width: int,
    on_event: OnEvent,
    *,
    stage: str,
    budget: int = 1 << 30,
    folder: Path | None = None,
) -> Frames:
    """Load every view, undistorted and resized to about ``width`` pixels.

    Args:
        capture: The capture.
        width: Target width in pixels.
        on_event: Told about each view.
        stage: Name of the stage in events.
        budget: Bytes of pixels kept in memory; the rest lies in a temporary file.
        folder: Where that file lies; None is the system's place.

    Raises:
        ImageError: A photo cannot be read.
        StorageError: There is no room for the temporary file.
    """
    overflow = Overflow(folder, budget=budget, hint="make room there, or raise --set lift.memory")
    images: list[Kept] = []
    depths: list[Kept | None] = []
    masks: list[Kept] = []
    cameras = []
    for done, view in enumerate(capture.views):
        on_event(Progress(stage, done, len(capture.views)))
        size = fit_size(view.width, view.height, width)
        frame = load_frame(view, *size)
        image = (frame.image * 255).round().clamp(0, 255).to(torch.uint8)
        images.append(overflow.keep(image))
        depths.append(None if frame.depth is None else overflow.keep(frame.depth))
        masks.append(overflow.keep(frame.mask))
        cameras.append(frame.camera)
    on_event(Progress(stage, len(capture.views), len(capture.views)))
    return Frames(
        KeptList[Tensor](images),
        KeptList[Tensor | None](depths),
        KeptList[Tensor](masks),
        stack_cameras(cameras),
    )
