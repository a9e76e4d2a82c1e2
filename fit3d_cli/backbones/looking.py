"""Pictures through a backbone, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.backoff import Backoff
from fit3d_cli.images import read_image, resize_image

Photo: TypeAlias = "Path | NDArray[np.uint8]"


class Tokeniser(Protocol):
    """The part of a backbone that looking at pictures needs."""

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        ...

    @property
    def device(self) -> torch.device:
        """Where pictures have to be."""
        ...

    def tokens(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in 0..1 to ``[B, h, w, C]``."""
        ...

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        """``(width, height)`` that the backbone sees."""
        ...


def tokens_of(
    images: Iterable[Photo], model: Tokeniser, *, width: int, batch: int
) -> Iterator[Tensor]:
    """Token maps ``[h, w, C]`` on the CPU in float32, in the order of ``images``.

    Consecutive photos of one size share a forward pass.

    Args:
        images: Files, or ``[H, W, 3]`` uint8 pictures; taken one by one.
        model: The backbone.
        width: Width in pixels of what it sees, before rounding to patches.
        batch: Photos per forward pass.

    Raises:
        ImageError: A photo cannot be read.
    """
    waiting: list[Tensor] = []
    backoff = Backoff("backbone.batch", batch, model.device)
    for image in images:
        photo = photo_of(image, model, width).permute(2, 0, 1)
        if waiting and (len(waiting) == batch or photo.shape != waiting[0].shape):
            yield from backoff.map(lambda some: _forward(model, some), waiting)
            waiting = []
        waiting.append(photo)
    if waiting:
        yield from backoff.map(lambda some: _forward(model, some), waiting)


def photo_of(image: Photo, model: Tokeniser, width: int) -> Tensor:
    """``[H, W, 3]`` in 0..1: a photo at the size at which ``model`` sees it.

    Raises:
        ImageError: It cannot be read.
    """
    pixels = read_image(image) if isinstance(image, Path) else image
    return resize_image(pixels, *model.input_size(pixels.shape[1], pixels.shape[0], width))


def _forward(model: Tokeniser, photos: Sequence[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        tokens = model.tokens(torch.stack(list(photos)).to(model.device)).float().cpu()
    # A tensor born in inference mode may not meet autograd later; a copy may.
    return list(tokens.clone())
