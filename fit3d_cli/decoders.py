"""The per-scene decoder: a 3x3 convolution from lifted to backbone channels.

FiT3D's ``feat_cnn`` is a single ``Conv2d(d, C, 3, padding=1)`` without bias. Ours works on the
token grid, has a bias (it carries the mean token, so uncovered places decode to the mean) and
is solved in closed form by ridge regression.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims


@dataclass(frozen=True)
class Decoder:
    """``tokens = conv3x3(features) + bias`` on the token grid.

    Attributes:
        weight: ``[C, d, 3, 3]`` float32.
        bias: ``[C]`` float32.
    """

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        check_dims(weight=(self.weight, "C d 3 3"), bias=(self.bias, "C"))

    def to(self, device: torch.device | str) -> Decoder:
        """The same decoder on another device."""
        return Decoder(self.weight.to(device), self.bias.to(device))

    @property
    def in_dim(self) -> int:
        """Lifted channels d."""
        return int(self.weight.shape[1])

    @property
    def out_dim(self) -> int:
        """Backbone channels C."""
        return int(self.weight.shape[0])

    def __call__(self, maps: Tensor) -> Tensor:
        """Decode ``[B, h, w, d]`` lifted maps to ``[B, h, w, C]`` tokens.

        The border is replicated: zero padding would darken the outermost tokens.
        """
        check_dims(maps=(maps, f"* * * {self.in_dim}"))
        padded = torch.nn.functional.pad(maps.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
        return torch.nn.functional.conv2d(padded, self.weight.to(maps), self.bias.to(maps)).permute(
            0, 2, 3, 1
        )


def unfold3x3(maps: Tensor) -> Tensor:
    """``[B, h, w, d]`` maps to ``[B * h * w, 9 * d]`` rows, tap-major within a channel."""
    padded = torch.nn.functional.pad(maps.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    columns = torch.nn.functional.unfold(padded, 3)  # [B, d * 9, h * w]
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def solve_decoder(
    pairs: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    basis: Tensor,
    mean: Tensor,
    *,
    ridge: float,
) -> Decoder:
    """Ridge regression of tokens on 3x3 neighbourhoods of rendered features.

    Minimises ``sum_rows weight * |X W + b - Y|^2 + s |W - W0|^2`` where ``W0`` has the PCA basis in
    the centre tap (with no data the decoder is the PCA reconstruction) and ``s`` is ``ridge``
    times the mean diagonal of ``X^T X``.

    Args:
        pairs: ``(maps [B, h, w, d], tokens [B, h, w, C], weights [B, h, w] or None)``,
            read once; products in the maps' precision, sums over the pairs in double.
        basis: ``[C, d]`` PCA basis, columns orthonormal.
        mean: ``[C]`` mean token.
        ridge: Strength relative to the mean squared feature, > 0.
    """
    dims = check_dims(basis=(basis, "C d"), mean=(mean, "C"))
    channels, width = dims["C"], dims["d"]
    columns = 9 * width
    gram = basis.new_zeros(columns + 1, columns + 1, dtype=torch.float64)
    cross = basis.new_zeros(columns + 1, channels, dtype=torch.float64)
    prior = basis.new_zeros(channels, width, 3, 3, dtype=torch.float64)
    prior[:, :, 1, 1] = basis.double()
    flat_prior = prior.reshape(channels, columns).T
    total = 0.0
    for maps, tokens, weights in pairs:
        rows = unfold3x3(maps)
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        residual = tokens.reshape(-1, channels).to(maps) - mean.to(maps)
        residual -= maps.reshape(-1, width) @ basis.T.to(maps)
        weighted = rows if weights is None else rows * weights.reshape(-1, 1).to(maps)
        total += float(weighted[:, -1].sum(dtype=torch.float64))
        gram += weighted.T @ rows
        cross += weighted.T @ residual
    strength = ridge * float(gram.diagonal()[:-1].mean())
    penalty = gram.new_full((columns + 1,), max(strength, 1e-12))
    penalty[-1] = 1e-9 * max(total, 1.0)
    solution = torch.linalg.solve(gram + torch.diag(penalty), cross)
    weight = (flat_prior + solution[:-1]).T.reshape(channels, width, 3, 3)
    bias = mean.double() + solution[-1]
    return Decoder(weight.float(), bias.float())
