"""The scene's own low-dimensional code: principal components of the backbone's tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.errors import WeightsError
from fit3d_cli.lifting.onethread import one_thread


@dataclass(frozen=True)
class TokenBasis:
    """Principal components of the backbone's tokens in one scene.

    Attributes:
        mean: ``[C]`` mean token.
        basis: ``[C, d]`` orthonormal columns, by falling variance.
        explained: Fraction of the token variance inside the basis.
    """

    mean: Tensor
    basis: Tensor
    explained: float

    def encode(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` tokens to ``[..., d]`` codes."""
        with one_thread():
            return (tokens - self.mean) @ self.basis

    def decode(self, codes: Tensor) -> Tensor:
        """``[..., d]`` codes to ``[..., C]`` tokens: the best rank-d reconstruction."""
        return codes @ self.basis.T + self.mean


@one_thread()
def fit_basis(maps: Iterable[Tensor], dim: int) -> TokenBasis:
    """PCA of token maps, streamed view by view through the C x C Gram matrix.

    Args:
        maps: ``[h, w, C]`` tokens per view, any float type; read once.
        dim: Components d; more than C are filled with zero columns, so that d is what was asked.

    Raises:
        WeightsError: Tokens are not finite.
        ValueError: No maps.
    """
    count, shift, total, gram = 0, None, None, None
    for index, tokens in enumerate(maps):
        rows = tokens.reshape(-1, tokens.shape[-1]).float()
        if shift is None or total is None or gram is None:
            # Centred on the first view's mean, single-precision products lose nothing that matters.
            shift = rows.mean(0)
            total = shift.new_zeros(len(shift), dtype=torch.float64)
            gram = shift.new_zeros(len(shift), len(shift), dtype=torch.float64)
        rows = rows - shift
        total += rows.sum(0)
        gram += rows.T @ rows
        if not torch.isfinite(total).all():
            raise WeightsError(
                f"the backbone's tokens of view {index} hold numbers that are not finite",
                where="tokens",
                hint="check the backbone's weights, then remove the workspace's cache/tokens",
            )
        count += len(rows)
    if shift is None or total is None or gram is None:
        raise ValueError("no views to lift from")
    mean = total / count
    covariance = gram / count - mean[:, None] * mean[None, :]
    variances, vectors = torch.linalg.eigh(covariance)
    channels = len(mean)
    kept = min(dim, channels)
    basis = covariance.new_zeros(channels, dim)
    basis[:, :kept] = vectors.flip(1)[:, :kept]
    # An eigenvector's sign is arbitrary; its largest entry is made positive.
    largest = basis.abs().argmax(0, keepdim=True)
    basis *= torch.where(basis.gather(0, largest) < 0, -1.0, 1.0)
    variances = variances.flip(0).clamp_min(0)
    total_variance = float(variances.sum())
    # Tokens that are all the same are explained by their mean.
    explained = float(variances[:kept].sum()) / total_variance if total_variance > 0 else 1.0
    return TokenBasis((mean + shift).float(), basis.float(), explained)
