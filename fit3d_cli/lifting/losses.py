"""Photometric losses of the geometry fit."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.splat.similarity import weighted_ssim


def psnr(rendered: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of ``mask``.

    Args:
        rendered: ``[H, W, 3]``; clamped to 0..1.
        photo: ``[H, W, 3]`` in 0..1.
        mask: ``[H, W]`` bool, True = use.
    """
    squared = (rendered.clamp(0, 1) - photo).square()[mask]
    return float(-10 * torch.log10(squared.mean().clamp_min(1e-12))) if squared.numel() else 0.0


def mean_ssim(rendered: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
    """Mean structural similarity over the pixels of ``mask``.

    Unused pixels are black on both sides, so that neither side leaks through the window.

    Args:
        rendered: ``[H, W, 3]`` float32; the gradient reaches it.
        photo: ``[H, W, 3]`` float32 in 0..1.
        mask: ``[H, W]`` bool, True = use.
    """
    weights = mask.to(rendered.dtype)
    used = weights[..., None]
    total = weights.sum().clamp_min(1) * rendered.shape[-1]
    return weighted_ssim(rendered * used, photo * used, weights) / total


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
        loss = loss + ssim_weight * (1 - mean_ssim(rendered, photo, mask))
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
