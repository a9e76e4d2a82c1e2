"""Colour changes of the published training pipelines, on ``[3, H, W]`` RGB in 0..255."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.datasets.base import ColorChange
from fit3d_cli.probing.exact.drawing import Draws

# Of mmsegmentation's PhotoMetricDistortion.
_BRIGHTNESS = 32.0
_FACTOR = (0.5, 1.5)
_HUE = 18


def distort(picture: Tensor, draws: Draws) -> Tensor:
    """Mmsegmentation's photometric distortion; each change happens to half of the pictures.

    Brightness first; contrast before or after saturation and hue, by the toss of a coin.

    Args:
        picture: Whole numbers 0..255.
        draws: Of this picture.
    """
    if draws.happens(0.5):
        picture = as_bytes(picture + draws.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = draws.happens(0.5)
    if contrast_first:
        picture = _contrast(picture, draws)
    if draws.happens(0.5):
        hue, saturation, value = rgb_to_hsv(picture)
        saturation = as_bytes(saturation * draws.uniform(*_FACTOR))
        picture = hsv_to_rgb(torch.stack([hue, saturation, value]))
    if draws.happens(0.5):
        hue, saturation, value = rgb_to_hsv(picture)
        hue = (hue + draws.whole(-_HUE, _HUE)) % 180
        picture = hsv_to_rgb(torch.stack([hue, saturation, value]))
    return picture if contrast_first else _contrast(picture, draws)


def _contrast(picture: Tensor, draws: Draws) -> Tensor:
    return as_bytes(picture * draws.uniform(*_FACTOR)) if draws.happens(0.5) else picture


def as_bytes(values: Tensor) -> Tensor:
    """Clipped to 0..255 and cut off to whole numbers, as a cast to uint8 does."""
    return values.clamp(0, 255).floor()


def rgb_to_hsv(picture: Tensor) -> Tensor:
    """OpenCV's 8-bit HSV: hue 0..179 (two degrees each), saturation and value 0..255."""
    red, green, blue = picture
    value, low = picture.amax(0), picture.amin(0)
    spread = value - low
    safe = spread.clamp(min=1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = torch.where(spread > 0, (30 * sector).round() % 180, 0.0)
    saturation = (255 * spread / value.clamp(min=1)).round()
    return torch.stack([hue, saturation, value])


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """The inverse of ``rgb_to_hsv``, rounded to whole numbers."""
    hue, saturation, value = hsv
    sector = hue / 30
    channels = []
    for offset in (5, 3, 1):
        place = (offset + sector) % 6
        weight = torch.minimum(place, 4 - place).clamp(0, 1)
        channels.append((value * (1 - saturation / 255 * weight)).round())
    return torch.stack(channels)


def change_colours(
    picture: Tensor, change: ColorChange, draws: Draws, *, gamma_peak: float
) -> Tensor:
    """Gamma, brightness and a factor per channel (the depth toolbox's ColorAug).

    Args:
        picture: Values 0..255.
        change: Ranges and probability.
        draws: Of this picture.
        gamma_peak: Value of white when the exponent is applied: 255 as published, which is mostly
            another brightness; 1 as meant.

    Returns:
        Values 0..255, not rounded.
    """
    if not draws.happens(change.probability):
        return picture
    gamma = draws.uniform(*change.gamma)
    scale = 255.0 / gamma_peak
    picture = (picture / scale).pow(gamma) * scale
    factors = torch.tensor([draws.uniform(*change.brightness)] * 3)
    factors *= torch.tensor([draws.uniform(*change.color) for _ in range(3)])
    return (picture * factors[:, None, None]).clamp(0, 255)
