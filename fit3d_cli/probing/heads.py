"""The heads: as little as possible between tokens and labels.

Both are linear in the tokens, and bilinear interpolation is linear too, so a head may be
applied to the token grid and then enlarged, or to interpolated tokens: the logits are the same.
Training uses the second order (a few pixels), prediction the first (all of them).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SegHead(nn.Module):
    """Batch normalisation with affine, then a 1x1 convolution to class logits.

    The tokens are frozen, so the statistics that batch normalisation estimates from batches are
    computed once over the training split and used throughout.

    Args:
        mean: ``[C]`` mean token of the training split.
        std: ``[C]`` standard deviation.
        classes: K.
        generator: Draws the initial weights (normal, 0.01, as mmsegmentation).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Tensor, std: Tensor, classes: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels = len(mean)
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.weight = nn.Parameter(torch.randn(classes, channels, generator=generator) * 0.01)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to logits ``[..., K]``."""
        normed = (tokens - self.mean) / self.std * self.scale + self.shift
        return nn.functional.linear(normed, self.weight, self.bias)


class DepthHead(nn.Module):
    """A 1x1 convolution to depth bins; the depth is the expectation over the bins.

    The probability of a bin is ``relu(logit) + 0.1``, normalised (AdaBins' linear variant, as in
    DINOv2's protocol). No normalisation layer.

    Args:
        channels: C, patch and class token together.
        bins: Number of bins, evenly spaced.
        nearest: Depth of the first bin, metres.
        farthest: Depth of the last bin, metres.
        generator: Draws the initial weights (uniform, as torch's convolutions).
    """

    centers: Tensor

    def __init__(
        self,
        channels: int,
        bins: int,
        nearest: float,
        farthest: float,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(nearest, farthest, bins))
        bound = 1 / math.sqrt(channels)
        self.weight = nn.Parameter(
            (torch.rand(bins, channels, generator=generator) * 2 - 1) * bound
        )
        self.bias = nn.Parameter((torch.rand(bins, generator=generator) * 2 - 1) * bound)

    def logits(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to bin logits ``[..., bins]``."""
        return nn.functional.linear(tokens, self.weight, self.bias)

    def decode(self, logits: Tensor) -> Tensor:
        """Bin logits ``[..., bins]`` to depths ``[...]``, metres."""
        mass = torch.relu(logits) + 0.1
        return (mass @ self.centers) / mass.sum(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to depths ``[...]``, metres."""
        return self.decode(self.logits(tokens))
