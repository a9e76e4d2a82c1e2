"""From a picture's token grid to labels or depths at the picture's own resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fit3d_cli.probing.heads import DepthHead, SegHead

_CHUNK_VALUES = 1 << 26  # enlarged logits that are held at once: 256 MiB


@torch.no_grad()
def predict_labels(head: SegHead, grid: Tensor, height: int, width: int) -> Tensor:
    """``[height, width]`` int64: the class of the largest bilinearly enlarged logit.

    Args:
        head: On the device of ``grid``.
        grid: ``[h, w, C]`` features of a picture.
        height: Height of the labels.
        width: Width of the labels.
    """
    return enlarged_argmax(head(grid).permute(2, 0, 1)[None], height, width)


def enlarged_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    """``[1, K, h, w]`` logits to the ``[height, width]`` classes of the largest enlarged one."""
    best: Tensor | None = None
    chosen: Tensor | None = None
    # A chunk of classes at a time: 150 classes of a large photo would fill the memory.
    step = max(1, _CHUNK_VALUES // (height * width))
    for start in range(0, logits.shape[1], step):
        part = interpolate(
            logits[:, start : start + step], size=(height, width), mode="bilinear",
            align_corners=False,
        )[0]  # fmt: skip
        value, index = part.max(dim=0)
        if best is None or chosen is None:
            best, chosen = value, index
        else:
            better = value > best
            best = torch.where(better, value, best)
            chosen = torch.where(better, index + start, chosen)
    assert chosen is not None
    return chosen


@torch.no_grad()
def predict_depth(head: DepthHead, grid: Tensor, height: int, width: int) -> Tensor:
    """``[height, width]`` metres: logits enlarged fourfold, decoded, then enlarged to the size.

    Args:
        head: On the device of ``grid``.
        grid: ``[h, w, C]`` features of a picture, class token included.
        height: Height of the depth picture.
        width: Width of the depth picture.
    """
    depth = finer_depth(head, grid)
    return interpolate(depth, size=(height, width), mode="bilinear", align_corners=False)[0, 0]


def finer_depth(head: DepthHead, grid: Tensor) -> Tensor:
    """``[h, w, C]`` features to ``[1, 1, 4 h, 4 w]`` metres; differentiable.

    The published head enlarges the features and then applies its convolution; both are linear, so
    enlarging the logits is the same and cheaper.
    """
    logits = head.logits(grid).permute(2, 0, 1)[None]
    finer = interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)[0]
    return head.decode(finer.permute(1, 2, 0))[None, None]
