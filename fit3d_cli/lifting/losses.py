"""Photometric losses of the geometry fit."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

# Wang et al. 2004: an 11-tap Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03.
_SSIM_TAPS = 11
_SSIM_SIGMA = 1.5


@lru_cache(maxsize=4)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    offsets = torch.arange(_SSIM_TAPS, dtype=torch.float64) - _SSIM_TAPS // 2
    taps = torch.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    return (taps / taps.sum()).to(device=device, dtype=dtype)


def _blur(stack: Tensor) -> Tensor:
    """Separable Gaussian blur of ``[B, 1, H, W]``, zero-padded, as two banded matrix products.

    Multiplying by banded Toeplitz matrices is a few times faster on a CPU than a depthwise
    convolution with 11 taps, forward and backward.
    """
    height, width = stack.shape[-2:]
    return (
        _toeplitz(height, stack.device, stack.dtype)
        @ stack
        @ _toeplitz(width, stack.device, stack.dtype)
    )


@lru_cache(maxsize=16)
def _toeplitz(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    window = _window(device, dtype)
    distance = torch.arange(size, device=device)[:, None] - torch.arange(size, device=device)
    inside = distance.abs() <= _SSIM_TAPS // 2
    taps = window[(distance + _SSIM_TAPS // 2).clamp(0, _SSIM_TAPS - 1)]
    return torch.where(inside, taps, torch.zeros_like(taps))


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity per pixel and channel.

    Args:
        first: ``[H, W, 3]`` in 0..1.
        second: ``[H, W, 3]`` in 0..1.

    Returns:
        ``[3, H, W]`` in -1..1; 1 where both agree.
    """
    check_dims(first=(first, "H W C"), second=(second, "H W C"))
    x, y = first.permute(2, 0, 1), second.permute(2, 0, 1)
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y])).unbind(0)
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )


def psnr(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of ``mask``.

    Args:
        rendered: ``[H, W, 3]``; clamped to 0..1.
        photo: ``[H, W, 3]`` in 0..1.
        mask: ``[H, W]`` bool, True = use.
    """
    squared = (rendered.clamp(0, 1) - photo).square()[mask]
    return float(-10 * torch.log10(squared.mean().clamp_min(1e-12))) if squared.numel() else 0.0


def photometric_loss(rendered: Tensor, photo: Tensor, mask: Tensor, ssim_weight: float) -> Tensor:
    """``(1 - w) L1 + w (1 - SSIM)``, the 3DGS loss, over the pixels of ``mask``.

    Args:
        rendered: ``[H, W, 3]``.
        photo: ``[H, W, 3]``.
        mask: ``[H, W]`` bool, True = use.
        ssim_weight: ``w``.
    """
    weights = mask.to(rendered.dtype)
    total = weights.sum().clamp_min(1) * 3
    loss = (1 - ssim_weight) * ((rendered - photo).abs() * weights[..., None]).sum() / total
    if ssim_weight > 0:
        # Unused pixels are made equal on both sides, so that they do not leak through the window.
        clean = torch.where(mask[..., None], rendered, photo)
        similarity = ssim_map(clean, photo)
        loss = loss + ssim_weight * ((1 - similarity) * weights).sum() / total
    return loss


def depth_loss(rendered: Tensor, alphas: Tensor, depth: Tensor, scale: float) -> Tensor:
    """Mean absolute depth error where the capture measured depth, in units of ``scale``.

    Args:
        rendered: ``[H, W]`` accumulated depth, ``sum_i w_i z_i``.
        alphas: ``[H, W]`` accumulated opacity.
        depth: ``[H, W]`` measured depth, 0 = unknown.
        scale: Typical depth of the scene, world units.
    """
    known = depth > 0
    # Comparing sum w z with alpha * depth keeps the gradient finite where alpha is small.
    error = (rendered - alphas * depth).abs() * known
    return error.sum() / known.sum().clamp_min(1) / scale
