"""Features on frozen geometry, in closed form.

With frozen geometry the rendered token map of view v is linear in the features: ``A_v f``, where
``A_v`` holds the blending weights pooled over each token's patch. Lifting is the least-squares
problem ``min_f sum_v |A_v f - Y_v|^2`` for the codes ``Y_v = (tokens_v - mean) basis``; nothing
here needs a learning rate.

Names: D = diag(sum_v A_v^T 1) is the column weight of each Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims
from fit3d_cli.splat.rasterize import TokenWeights

# Gaussians whose total weight over all views is below this were practically never seen.
_UNSEEN = 1e-6


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
        return (tokens - self.mean) @ self.basis

    def decode(self, codes: Tensor) -> Tensor:
        """``[..., d]`` codes to ``[..., C]`` tokens: the best rank-d reconstruction."""
        return codes @ self.basis.T + self.mean


def fit_basis(maps: Sequence[Tensor], dim: int) -> TokenBasis:
    """PCA of token maps, streamed view by view through the C x C Gram matrix.

    Args:
        maps: ``[h, w, C]`` tokens per view, any float type.
        dim: Components d; more than C are filled with zero columns, so that d is what was asked.
    """
    channels = int(maps[0].shape[-1])
    count, total = 0, torch.zeros(channels, dtype=torch.float64)
    gram = torch.zeros(channels, channels, dtype=torch.float64)
    for tokens in maps:
        rows = tokens.reshape(-1, channels).double()
        count += len(rows)
        total += rows.sum(0)
        gram += rows.T @ rows
    mean = total / count
    covariance = gram / count - mean[:, None] * mean[None, :]
    variances, vectors = torch.linalg.eigh(covariance)
    kept = min(dim, channels)
    basis = torch.zeros(channels, dim, dtype=torch.float64)
    basis[:, :kept] = vectors.flip(1)[:, :kept]
    # An eigenvector's sign is arbitrary; its largest entry is made positive.
    largest = basis.abs().argmax(0)
    basis *= torch.where(basis[largest, torch.arange(dim)] < 0, -1.0, 1.0)
    variances = variances.flip(0).clamp_min(0)
    total_variance = float(variances.sum())
    # Tokens that are all the same are explained by their mean.
    explained = float(variances[:kept].sum()) / total_variance if total_variance > 0 else 1.0
    return TokenBasis(mean.float(), basis.float(), explained)


def weighted_average(weights: Sequence[TokenWeights], codes: Sequence[Tensor]) -> Tensor:
    """Each Gaussian takes the mean of the codes that it contributes to: ``D^-1 sum_v A_v^T Y_v``.

    This is the first step of a Richardson iteration on the least-squares problem from zero
    (SIRT in tomography; LUDVIG and Occam's LGS use it as is). Unseen Gaussians get zero, which
    decodes to the mean token.

    Args:
        weights: One ``A_v`` per view.
        codes: ``[h, w, d]`` per view.

    Returns:
        ``[N, d]``.
    """
    total, column = _normal_rhs(weights, codes)
    return torch.where(column > _UNSEEN, total / column.clamp_min(_UNSEEN), torch.zeros_like(total))


def conjugate_gradients(
    weights: Sequence[TokenWeights],
    codes: Sequence[Tensor],
    start: Tensor,
    *,
    iterations: int,
    damping: float,
    on_step: Callable[[int, float], None] | None = None,
) -> Tensor:
    """A few preconditioned CG steps on ``sum_v |A_v f - Y_v|^2 + |f - start|^2_L``.

    ``L = damping * D``, so that the pull to the weighted average is as strong, relative to
    the data, for a Gaussian seen once as for one seen often; the preconditioner is ``D``.
    Few iterations are themselves a regulariser: views disagree, and solving exactly fits
    their disagreement.

    Args:
        weights: One ``A_v`` per view.
        codes: ``[h, w, d]`` per view.
        start: ``[N, d]`` the weighted average.
        iterations: CG steps; 0 returns ``start``.
        damping: Relative strength of the pull to ``start``.
        on_step: Called with the step and the mean squared residual.

    Returns:
        ``[N, d]``; Gaussians that no view sees keep their ``start``.
    """
    rhs, column = _normal_rhs(weights, codes)
    seen = column > _UNSEEN
    inverse = torch.where(seen, 1 / column.clamp_min(_UNSEEN), torch.zeros_like(column))

    def normal(x: Tensor) -> Tensor:
        out = damping * column * x
        for a in weights:
            a.apply_t(a.apply(x), out=out)
        return out

    x = start.clone()
    residual = torch.where(seen, rhs + damping * column * start - normal(x), torch.zeros_like(rhs))
    z = inverse * residual
    direction = z.clone()
    # One scalar system per channel: the channels are independent right-hand sides.
    rho = (residual * z).sum(0)
    for step in range(iterations):
        applied = torch.where(seen, normal(direction), torch.zeros_like(direction))
        curvature = (direction * applied).sum(0)
        alpha = torch.where(curvature > 0, rho / curvature.clamp_min(1e-30), 0 * rho)
        x = x + alpha * direction
        residual = residual - alpha * applied
        z = inverse * residual
        rho_next = (residual * z).sum(0)
        beta = torch.where(rho > 0, rho_next / rho.clamp_min(1e-30), 0 * rho)
        direction = z + beta * direction
        rho = rho_next
        if on_step is not None:
            on_step(step + 1, float(residual.square().mean()))
    return x


def _normal_rhs(weights: Sequence[TokenWeights], codes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``sum_v A_v^T Y_v`` as ``[N, d]`` and the column weights D as ``[N, 1]``."""
    if len(weights) != len(codes):
        raise ValueError(f"{len(weights)} views of weights for {len(codes)} of codes")
    if not weights:
        raise ValueError("no views to lift from")
    both = torch.zeros(weights[0].count, codes[0].shape[-1] + 1)
    for a, y in zip(weights, codes, strict=True):
        dims = check_dims(codes=(y, "h w d"))
        ones = torch.ones(dims["h"], dims["w"], 1)
        # One pass over the weights serves both sums.
        a.apply_t(torch.cat([y.float(), ones], dim=-1), out=both)
    return both[:, :-1], both[:, -1:]
