"""Rival ``shrink``: render at full resolution, decode every pixel, average over the patches.

FiT3D makes its fine-tuning targets in this order. Its 3x3 taps reach the neighbouring pixels; here
they reach the same place in the neighbouring patches (a dilation of one patch, the outermost
patches repeated beyond the border). Then averaging and decoding commute, the targets are the
same numbers as ours, and the work per pixel is FiT3D's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.decoders import Decoder


def decode_and_shrink(maps: Tensor, decoder: Decoder, patch: int) -> Tensor:
    """``[h, w, C]`` targets of rendered features.

    Args:
        maps: ``[H, W, d]``; the sides are multiples of ``patch``.
        decoder: The 3x3 convolution of the token grid.
        patch: Pixels per token side.
    """
    padded = _padded(maps, patch)
    decoded = torch.nn.functional.conv2d(
        padded.permute(2, 0, 1)[None],
        decoder.weight.to(maps),
        decoder.bias.to(maps),
        dilation=patch,
    )
    return torch.nn.functional.avg_pool2d(decoded, patch)[0].permute(1, 2, 0)


def exact(maps: Tensor, decoder: Decoder, patch: int) -> Tensor:
    """The same in double precision, one row of patches at a time; not made to be fast."""
    height, width, dim = maps.shape
    padded, rows = _padded(maps.double(), patch), []
    for top in range(0, height, patch):
        decoded = decoder.bias.double().expand(patch * width, -1)
        for i in range(3):
            for j in range(3):
                part = padded[top + i * patch :, j * patch :][:patch, :width].reshape(-1, dim)
                decoded = decoded + part @ decoder.weight[:, :, i, j].double().T
        rows.append(decoded.view(patch, width // patch, patch, -1).mean((0, 2)))
    return torch.stack(rows)


def _padded(maps: Tensor, patch: int) -> Tensor:
    """The maps with their outermost patches repeated on every side."""
    tall = torch.cat([maps[:patch], maps, maps[-patch:]], 0)
    return torch.cat([tall[:, :patch], tall, tall[:, -patch:]], 1)
