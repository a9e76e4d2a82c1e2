"""Proof that what was written gives the tokens of what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import WeightsError

# Largest difference over largest token. Sums in another order give about 1e-6; a transposed
# tensor, another activation or another epsilon give far more.
LIMIT = 1e-4


def sample_images(backbone: Backbone, width: int, height: int, count: int) -> Tensor:
    """``[count, 3, height, width]`` normalised noise, always the same."""
    drawn = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    return (drawn - mean) / std


def all_tokens(backbone: Backbone, images: Tensor) -> Tensor:
    """``[B, prefix + h * w, C]`` of normalised pictures, as timm gives them."""
    with torch.no_grad():
        return cast(Tensor, backbone.model.forward_features(images))  # type: ignore[operator]


def require_agreement(expected: Tensor, got: Tensor, *, where: str | Path, reader: str) -> float:
    """The largest absolute difference.

    Args:
        expected: Tokens of the backbone.
        got: Tokens of what was exported, same shape.
        where: What was exported, for the error.
        reader: Which program computed them.

    Raises:
        WeightsError: Another shape, or a difference above ``LIMIT`` of the largest token.
    """
    if expected.shape != got.shape:
        raise WeightsError(
            f"{reader} gives tokens {tuple(got.shape)}, expected {tuple(expected.shape)}",
            where=where,
            hint="report it with the name of the backbone",
        )
    difference = float((expected - got).abs().max())
    largest = float(expected.abs().max())
    if not difference <= LIMIT * largest:
        raise WeightsError(
            f"in {reader} tokens differ by {difference:.2g} (largest token {largest:.2g});"
            " nothing was written",
            where=where,
            hint="report it with the name of the backbone",
        )
    return difference
