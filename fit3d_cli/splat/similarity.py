"""Structural similarity of two pictures: a torch reference and the compiled, fused version."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fit3d_cli.device import thread_count
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat import kernel

# Wang et al. 2004: an 11-tap Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03.
_TAPS = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def window(dtype: torch.dtype = torch.float32) -> Tensor:
    """The ``[11]`` Gaussian taps, summing to one."""
    offsets = torch.arange(_TAPS, dtype=torch.float64) - _TAPS // 2
    taps = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return (taps / taps.sum()).to(dtype)


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity per pixel and channel; the reference, differentiable by autograd.

    Args:
        first: ``[H, W, C]`` in 0..1.
        second: ``[H, W, C]`` in 0..1.

    Returns:
        ``[C, H, W]`` in -1..1; 1 where both agree. The window is zero-padded.
    """
    check_dims(first=(first, "H W C"), second=(second, "H W C"))
    x, y = first.permute(2, 0, 1)[:, None], second.permute(2, 0, 1)[:, None]
    taps, half = window(first.dtype).to(first.device), _TAPS // 2

    def blur(maps: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(maps, taps.view(1, 1, 1, -1), padding=(0, half))
        return torch.nn.functional.conv2d(rows, taps.view(1, 1, -1, 1), padding=(half, 0))[:, 0]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    return ((2 * mean_x * mean_y + _C1) * (2 * cov + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )


def weighted_ssim(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """``sum_p weights_p sum_c SSIM_pc``; the gradient reaches ``first`` only.

    Args:
        first: ``[H, W, C]`` float32; the fused kernel runs on the CPU, elsewhere torch does it.
        second: ``[H, W, C]`` float32, on the same device.
        weights: ``[H, W]`` float32, on the same device.

    Returns:
        A scalar.
    """
    check_dims(first=(first, "H W C"), second=(second, "H W C"), weights=(weights, "H W"))
    if first.device.type == "cuda":
        return (ssim_map(first, second.detach()) * weights.detach()).sum()
    total: Tensor = _WeightedSsim.apply(  # type: ignore[no-untyped-call]
        first, second, weights, thread_count()
    )
    return total


class _WeightedSsim(torch.autograd.Function):
    """Value and gradient in one pass: the gradient needs only local derivatives and blurs."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, weights: Tensor, threads: int) -> Tensor:
        """See ``weighted_ssim``."""
        x, y = kernel.checked("first", first), kernel.checked("second", second)
        height, width, channels = x.shape
        gradient = torch.empty_like(x) if first.requires_grad else None
        row_sums = torch.empty(height, dtype=torch.float64)
        kernel.load().ssim(
            x,
            y,
            kernel.checked("weights", weights),
            window(),
            torch.empty((8 * height + 5 * threads) * width * channels),
            row_sums,
            gradient,
            threads,
        )
        ctx.gradient = gradient
        return row_sums.sum().to(first.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """The stored gradient, scaled."""
        return grads[0] * ctx.gradient, None, None, None
