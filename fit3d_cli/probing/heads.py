"""The heads: as little as possible between tokens and labels.

All are linear in the tokens, and bilinear interpolation is linear too, so a head may be
applied to the token grid and then enlarged, or to interpolated tokens: the logits are the same.
The cached path trains in the second order (a few pixels); all else uses the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """A learnt linear map of two models' tokens to one model's width (FiT3D, table 7).

    Args:
        joined: Channels of both models together, the first ones of the input.
        width: Channels of one model.
        generator: Draws the initial weights (uniform, as torch's convolutions).
    """

    def __init__(self, joined: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = _uniform(width, joined, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., joined + R]`` to ``[..., width + R]``; the last R (a class token) are kept."""
        joined = self.weight.shape[1]
        fused = nn.functional.linear(tokens[..., :joined], self.weight, self.bias)
        return torch.cat([fused, tokens[..., joined:]], dim=-1)


class SegHead(nn.Module):
    """Batch normalisation with affine, then a 1x1 convolution to class logits.

    Args:
        channels: C.
        classes: K.
        statistics: ``[C]`` mean and variance of the training split's tokens. Frozen tokens of whole
            pictures have fixed ones, which need no estimate from batches; None estimates them as
            batch normalisation does (momentum 0.1).
        fusion: Applied first; C is its width.
        generator: Draws the initial weights (normal, 0.01, as mmsegmentation).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        generator: torch.Generator,
        statistics: tuple[Tensor, Tensor] | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.norm = nn.BatchNorm1d(channels)
        self._known = statistics is not None
        if statistics is not None:
            self.norm.running_mean, self.norm.running_var = (s.float() for s in statistics)
        self.weight = nn.Parameter(torch.randn(classes, channels, generator=generator) * 0.01)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.train()

    def train(self, mode: bool = True) -> SegHead:
        """Known statistics stay as they are."""
        super().train(mode)
        if self._known:
            self.norm.eval()
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to logits ``[..., K]``."""
        if self.fusion is not None:
            tokens = self.fusion(tokens)
        rows = self.norm(tokens.reshape(-1, tokens.shape[-1]))
        logits = nn.functional.linear(rows, self.weight, self.bias)
        return logits.reshape(*tokens.shape[:-1], -1)


class DepthHead(nn.Module):
    """A 1x1 convolution to depth bins; the depth is the expectation over the bins.

    The probability of a bin is ``relu(logit) + 0.1``, normalised (AdaBins' linear variant, as in
    DINOv2's protocol). No normalisation layer.

    Args:
        channels: C, patch and class token together.
        bins: Number of bins, evenly spaced.
        nearest: Depth of the first bin, metres.
        farthest: Depth of the last bin, metres.
        fusion: Applied first; C counts its width.
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
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.register_buffer("centers", torch.linspace(nearest, farthest, bins))
        self.weight, self.bias = _uniform(bins, channels, generator)

    def logits(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to bin logits ``[..., bins]``."""
        if self.fusion is not None:
            tokens = self.fusion(tokens)
        return nn.functional.linear(tokens, self.weight, self.bias)

    def decode(self, logits: Tensor) -> Tensor:
        """Bin logits ``[..., bins]`` to depths ``[...]``, metres."""
        mass = torch.relu(logits) + 0.1
        return (mass @ self.centers) / mass.sum(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to depths ``[...]``, metres."""
        return self.decode(self.logits(tokens))


def _uniform(out: int, into: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias as torch initialises a 1x1 convolution."""
    bound = 1 / math.sqrt(into)
    weight = nn.Parameter((torch.rand(out, into, generator=generator) * 2 - 1) * bound)
    bias = nn.Parameter((torch.rand(out, generator=generator) * 2 - 1) * bound)
    return weight, bias
