"""One training picture of the published protocols."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.datasets.base import DepthDataset
from fit3d_cli.probing.exact.colours import change_colours, distort
from fit3d_cli.probing.exact.drawing import Draws
from fit3d_cli.probing.exact.protocol import DepthProtocol, SegProtocol
from fit3d_cli.probing.exact.resample import (
    keep_ratio_size,
    mirror,
    resize_bytes,
    resize_nearest,
    turn,
)

_TRIES = 10


@dataclass(frozen=True)
class Crop:
    """What a head learns from.

    Attributes:
        picture: ``[3, h, w]`` float32 in 0..1.
        target: ``[H, W]`` classes or metres; H, W may exceed h, w, the picture is then padded
            below and to the right.
    """

    picture: Tensor
    target: Tensor


def seg_crop(
    picture: Tensor, labels: Tensor, protocol: SegProtocol, ignore: int, draws: Draws
) -> Crop:
    """Resize by a random factor, crop, mirror, change colours.

    Args:
        picture: ``[3, H, W]`` whole numbers 0..255.
        labels: ``[H, W]`` classes.
        protocol: Sizes.
        ignore: Label without a class, also that of the padding.
        draws: Of this picture.
    """
    ratio = draws.uniform(*protocol.ratios)
    size = keep_ratio_size(
        picture.shape[2], picture.shape[1], int(protocol.long * ratio), int(protocol.short * ratio)
    )
    picture, labels = resize_bytes(picture, *size), resize_nearest(labels, *size)
    place = _draw_place(labels.shape, (protocol.crop, protocol.crop), draws)
    for _ in range(_TRIES):
        if _varied(labels[place], ignore, protocol.max_share):
            break
        place = _draw_place(labels.shape, (protocol.crop, protocol.crop), draws)
    picture, labels = picture[:, place[0], place[1]], labels[place]
    if draws.happens(0.5):
        picture, labels = mirror(picture), mirror(labels)
    target = torch.full((protocol.crop, protocol.crop), ignore, dtype=labels.dtype)
    target[: labels.shape[0], : labels.shape[1]] = labels
    return Crop(distort(picture, draws) / 255, target)


def _varied(labels: Tensor, ignore: int, max_share: float) -> bool:
    """Whether there are two classes and none takes too much of the labelled pixels."""
    counts = torch.bincount(labels[labels != ignore])
    there = counts[counts > 0]
    return len(there) > 1 and float(there.max() / there.sum()) < max_share


def depth_crop(
    picture: Tensor, depth: Tensor, dataset: DepthDataset, protocol: DepthProtocol, draws: Draws
) -> Crop:
    """Cut to the dataset's training box, turn, mirror, crop, change colours.

    Args:
        picture: ``[3, H, W]`` whole numbers 0..255.
        depth: ``[H, W]`` metres, 0 = unknown.
        dataset: Its box, largest angle, crop and colours.
        protocol: How gamma is meant.
        draws: Of this picture.

    Raises:
        DatasetError: The picture is smaller than the box.
    """
    if dataset.train_box is not None:
        dataset.train_box.require_inside(*depth.shape, where=dataset.name)
        rows, columns = dataset.train_box.slices
        picture, depth = picture[:, rows, columns], depth[rows, columns]
    turned = draws.happens(0.5)
    degrees = draws.uniform(-dataset.rotate, dataset.rotate)
    if turned and degrees:
        picture = (turn(picture, degrees) + 0.5).floor_()
        depth = turn(depth[None], degrees, nearest=True)[0]
    if dataset.flip and draws.happens(0.5):
        picture, depth = mirror(picture), mirror(depth)
    if dataset.crop is not None:
        place = _draw_place(depth.shape, dataset.crop, draws)
        picture, depth = picture[:, place[0], place[1]], depth[place]
    if dataset.color is not None:
        picture = change_colours(picture, dataset.color, draws, gamma_peak=protocol.gamma_peak)
    return Crop((picture / 255).contiguous(), depth.contiguous())


def _draw_place(shape: torch.Size, crop: tuple[int, int], draws: Draws) -> tuple[slice, slice]:
    """Rows and columns of a random crop; all of them where the picture is smaller."""
    top = draws.whole(0, max(shape[0] - crop[0], 0) + 1)
    left = draws.whole(0, max(shape[1] - crop[1], 0) + 1)
    return slice(top, top + crop[0]), slice(left, left + crop[1])
