"""Colour scales that are perceptually even by construction: they are drawn in OKLCh."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

UNKNOWN = (0.16, 0.16, 0.17)

# Knots (lightness, chroma, hue in degrees) from far or small to near or large: lightness rises
# evenly, hue goes the short way from violet over red to yellow.
_DEPTH_KNOTS = ((0.27, 0.11, 285.0), (0.46, 0.17, 330.0), (0.65, 0.17, 392.0), (0.95, 0.11, 465.0))
_ERROR_KNOTS = ((0.20, 0.03, 250.0), (0.47, 0.12, 230.0), (0.72, 0.14, 160.0), (0.96, 0.13, 105.0))

# Hues that people tell apart and name differently; light and dark alternate so that neighbours
# differ in print and for colour-blind readers too.
_HUES = (250.0, 60.0, 150.0, 20.0, 305.0, 100.0, 200.0, 345.0)
_LIGHTNESS = (0.60, 0.78, 0.66, 0.58, 0.52, 0.88, 0.78, 0.78)


def oklch_to_rgb(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """OKLCh to sRGB in 0..1, clipped to the gamut.

    The matrices are those of B. Ottosson, "A perceptual color space for image processing" (2020).

    Args:
        lightness: ``[...]`` in 0..1.
        chroma: ``[...]``, 0 is grey.
        hue: ``[...]`` degrees.

    Returns:
        ``[..., 3]``.
    """
    angle = torch.deg2rad(hue)
    lab = torch.stack([lightness, chroma * torch.cos(angle), chroma * torch.sin(angle)], dim=-1)
    to_lms = lab.new_tensor(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = lab.new_tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = ((lab @ to_lms.T) ** 3 @ to_linear.T).clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055
    )


def distinct_colours(count: int) -> Tensor:
    """``[count, 3]`` colours in 0..1 that are easy to tell apart, always in the same order."""
    hues = [
        # After the hand-picked eight, the golden angle spreads any number of hues evenly.
        _HUES[i] if i < len(_HUES) else (15.0 + 137.50776 * i) % 360
        for i in range(count)
    ]
    lights = [
        _LIGHTNESS[i] if i < len(_LIGHTNESS) else (0.48, 0.70, 0.86)[i % 3] for i in range(count)
    ]
    return oklch_to_rgb(torch.tensor(lights), torch.full((count,), 0.13), torch.tensor(hues))


def depth_to_rgb(
    depth: Tensor,
    *,
    mask: Tensor | None = None,
    near: float | None = None,
    far: float | None = None,
) -> Tensor:
    """Colours of a depth map: near is bright, unknown is dark grey.

    The scale is logarithmic, so that equal colour steps are equal ratios of depth whatever the
    unit of the scene.

    Args:
        depth: ``[h, w]`` depth along the optical axis; values <= 0 or not finite are unknown.
        mask: ``[h, w]`` bool, True = use; others are unknown.
        near: Depth of the brightest colour; default: the 1st percentile of the known depths.
        far: Depth of the darkest colour; default: the 99th percentile.

    Returns:
        ``[h, w, 3]`` in 0..1.
    """
    check_dims(depth=(depth, "h w"))
    known = torch.isfinite(depth) & (depth > 0)
    if mask is not None:
        check_dims(depth=(depth, "h w"), mask=(mask, "h w"))
        known = known & mask
    values = depth[known].double()
    if not len(values):
        return torch.tensor(UNKNOWN).expand(*depth.shape, 3).clone()
    low, high = _percentiles(values, 0.01, 0.99)
    bottom, top = math.log(near or low), math.log(far or high)
    span = max(top - bottom, 1e-9)
    closeness = 1 - (torch.log(depth.double().clamp(min=1e-12)) - bottom) / span
    return _scale(closeness, known, _DEPTH_KNOTS)


def error_to_rgb(error: Tensor, *, mask: Tensor | None = None, high: float | None = None) -> Tensor:
    """Colours of an error map: no error is dark blue, ``high`` and more is bright yellow.

    Args:
        error: ``[h, w]``; the magnitude is shown, values that are not finite are unknown.
        mask: ``[h, w]`` bool, True = use; others are unknown (dark grey).
        high: Error of the brightest colour; default: the 99th percentile. Give one value to
            compare maps.

    Returns:
        ``[h, w, 3]`` in 0..1.
    """
    check_dims(error=(error, "h w"))
    known = torch.isfinite(error)
    if mask is not None:
        check_dims(error=(error, "h w"), mask=(mask, "h w"))
        known = known & mask
    magnitude = error.double().abs()
    values = magnitude[known]
    top = high if high is not None else (_percentiles(values, 0, 0.99)[1] if len(values) else 1.0)
    return _scale(magnitude / max(top, 1e-12), known, _ERROR_KNOTS)


def heat_to_rgb(values: Tensor, low: float, high: float) -> Tensor:
    """``[...]`` similarities to ``[..., 3]``: ``low`` is dark blue, ``high`` bright yellow."""
    known = torch.isfinite(values)
    return _scale((values.double() - low) / max(high - low, 1e-12), known, _ERROR_KNOTS)


def _scale(
    position: Tensor, known: Tensor, knots: tuple[tuple[float, float, float], ...]
) -> Tensor:
    """Colours along ``knots`` at ``position`` 0..1; dark grey where not ``known``."""
    table = torch.tensor(knots, dtype=torch.float64)
    place = torch.where(known, position, 0.0).clamp(0, 1) * (len(table) - 1)
    index = place.floor().long().clamp(max=len(table) - 2)
    part = (place - index)[..., None]
    lch = table[index] * (1 - part) + table[index + 1] * part
    rgb = oklch_to_rgb(lch[..., 0], lch[..., 1], lch[..., 2]).float()
    return torch.where(known[..., None], rgb, torch.tensor(UNKNOWN))


def _percentiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """Two order statistics of a flat tensor (torch.quantile refuses more than 2**24 values)."""
    ordered = values.flatten().sort().values
    last = len(ordered) - 1
    return float(ordered[round(low * last)]), float(ordered[round(high * last)])
