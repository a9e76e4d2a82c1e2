"""What Gaussians say at points and along rays, evaluated in 3D, without a picture between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.shapes import check_dims

POINT_REACH = 3.0  # standard deviations up to which a Gaussian counts at a point
# The rasteriser's constants: what is fainter is skipped, what is more opaque clamped, and a ray
# ends when so little is left of it.
MIN_ALPHA, MAX_ALPHA, LEFT = 1 / 255, 0.99, 1e-4
# exp(-r^2 / 2) = 1/255 at r = 3.33: beyond, no Gaussian reaches MIN_ALPHA.
RAY_REACH = 3.33
_PAIRS = 1 << 21  # points times Gaussians looked at together
_CHUNK = 1024
_CELLS = 16


@dataclass(frozen=True)
class PointAnswers:
    """What lies at M points.

    Attributes:
        features: ``[M, D]`` weighted means; 0 where nothing is near.
        density: ``[M]`` sum of opacity times Gaussian, the weight behind each mean; 0 where
            nothing is near, about 1 inside a surface.
    """

    features: Tensor
    density: Tensor


@dataclass(frozen=True)
class RayAnswers:
    """What M rays meet.

    Attributes:
        features: ``[M, D]`` means weighted by the light that each Gaussian stops; 0 where the ray
            meets nothing.
        depth: ``[M]`` distance along the ray, world units, at which half of the light is stopped;
            0 where that never happens.
        alpha: ``[M]`` share of the light that is stopped, 0 to 1.
    """

    features: Tensor
    depth: Tensor
    alpha: Tensor


def at_points(gaussians: Gaussians, values: Tensor, points: Tensor) -> PointAnswers:
    """Means of ``values`` at points, weighted by opacity and density.

    ``f(x) = sum_i w_i f_i / sum_i w_i`` with ``w_i = o_i exp(-m_i^2 / 2)`` and the Mahalanobis
    distance ``m_i^2 = (x - mu_i)^T S_i^-1 (x - mu_i)``; those above 3 are left out.

    Args:
        gaussians: N Gaussians.
        values: ``[N, D]``, on their device.
        points: ``[M, 3]`` in the world, finite.
    """
    check_dims(points=(points, "M 3"), values=(values, f"{len(gaussians)} D"))
    whiten, reach = _shapes(gaussians, POINT_REACH)
    points = points.to(gaussians.means)
    features = values.new_zeros(len(points), values.shape[1])
    density = values.new_zeros(len(points))
    for chosen, candidates in _neighbours(points, gaussians.means, reach):
        offsets = points[chosen][:, None] - gaussians.means[candidates][None]
        near = offsets.square().sum(-1) <= reach[candidates].square()
        rows, columns = near.nonzero(as_tuple=True)
        place, index = chosen[rows], candidates[columns]
        local = (whiten[index] @ offsets[rows, columns][..., None])[..., 0]
        squared = local.square().sum(-1)
        weights = gaussians.opacities[index] * torch.exp(-0.5 * squared)
        weights = torch.where(squared <= POINT_REACH**2, weights, 0)
        features.index_add_(0, place, weights[:, None] * values[index])
        density.index_add_(0, place, weights)
    return PointAnswers(features / density.clamp_min(1e-30)[:, None], density)


def along_rays(
    gaussians: Gaussians, values: Tensor, origins: Tensor, directions: Tensor
) -> RayAnswers:
    """Blend ``values`` along rays, front to back.

    Every Gaussian acts where it is densest on the ray, at ``t_i = e.y / e.e`` with
    ``y = A_i (mu_i - o)``, ``e = A_i d`` and ``A_i^T A_i = S_i^-1``, with
    ``alpha_i = min(0.99, o_i exp(-|y - t_i e|^2 / 2))``; those below 1/255 or behind the origin are
    left out. In the order of ``t``, ``w_i = alpha_i prod_{j < i} (1 - alpha_j)``. The
    rasteriser sorts by the centres' depth and blurs by 0.3 pixels instead, so pictures differ a
    little from rays.

    Args:
        gaussians: N Gaussians.
        values: ``[N, D]``, on their device.
        origins: ``[M, 3]`` in the world, finite.
        directions: ``[M, 3]``, any length but zero.

    Raises:
        ValueError: A direction is zero.
    """
    check_dims(
        origins=(origins, "M 3"), directions=(directions, "M 3"),
        values=(values, f"{len(gaussians)} D"),
    )  # fmt: skip
    origins, directions = origins.to(gaussians.means), directions.to(gaussians.means)
    lengths = directions.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise ValueError("a ray has direction zero")
    directions = directions / lengths
    whiten, reach = _shapes(gaussians, RAY_REACH)
    parts = [
        _blend(gaussians, values, whiten, reach, origins[start:stop], directions[start:stop])
        for start, stop in _spans(len(origins), max(1, _PAIRS // max(1, len(gaussians))))
    ]
    if not parts:
        empty = values.new_zeros(0)
        return RayAnswers(values.new_zeros(0, values.shape[1]), empty, empty)
    return RayAnswers(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


def _blend(
    gaussians: Gaussians,
    values: Tensor,
    whiten: Tensor,
    reach: Tensor,
    origins: Tensor,
    directions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    count = len(origins)
    towards = gaussians.means[None] - origins[:, None]  # [m, N, 3]
    ahead = (towards * directions[:, None]).sum(-1)
    aside = towards.square().sum(-1) - ahead.square()
    rays, index = (aside <= reach.square()).nonzero(as_tuple=True)
    y = (whiten[index] @ towards[rays, index][..., None])[..., 0]
    e = (whiten[index] @ directions[rays][..., None])[..., 0]
    t = (e * y).sum(-1) / e.square().sum(-1)
    missed = (y - t[:, None] * e).square().sum(-1)
    alpha = (gaussians.opacities[index] * torch.exp(-0.5 * missed)).clamp_max(MAX_ALPHA)
    kept = (alpha >= MIN_ALPHA) & (t > 0)
    rays, index, t, alpha = rays[kept], index[kept], t[kept], alpha[kept]
    order = torch.argsort(t, stable=True)
    order = order[torch.argsort(rays[order], stable=True)]
    rays, index, t, alpha = rays[order], index[order], t[order], alpha[order]
    # Light that is left behind each: a running sum of logarithms that starts anew at every ray.
    fades = torch.log1p(-alpha.double())
    running = fades.cumsum(0)
    sizes = torch.bincount(rays, minlength=count)
    first = (sizes.cumsum(0) - sizes)[rays]
    offsets = (running - fades)[first] if len(rays) else running
    behind = torch.exp(running - offsets)
    before = torch.exp(running - fades - offsets)
    weights = torch.where(behind > LEFT, before * alpha.double(), 0).to(values.dtype)
    features = values.new_zeros(count, values.shape[1])
    features.index_add_(0, rays, weights[:, None] * values[index])
    stopped = values.new_zeros(count).index_add_(0, rays, weights)
    depth = values.new_full((count,), torch.inf)
    half = behind <= 0.5
    depth = depth.scatter_reduce(0, rays[half], t[half], "amin")
    depth = torch.where(torch.isfinite(depth), depth, 0)
    return features / stopped.clamp_min(1e-30)[:, None], depth, stopped


def _shapes(gaussians: Gaussians, sigmas: float) -> tuple[Tensor, Tensor]:
    """``[N, 3, 3]`` maps to unit spheres, and ``[N]`` distances beyond which nothing counts."""
    rotations = quats_to_matrices(gaussians.quats)
    whiten = rotations.transpose(1, 2) / gaussians.scales[:, :, None]
    return whiten, sigmas * gaussians.scales.max(dim=1).values


def _neighbours(points: Tensor, means: Tensor, reach: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Points that lie together, and all Gaussians that reach into their box."""
    if not len(points) or not len(means):
        return
    low, high = points.min(0).values, points.max(0).values
    cells = ((points - low) / (high - low).clamp_min(1e-12) * (_CELLS - 1e-3)).long()
    order = torch.argsort((cells[:, 0] * _CELLS + cells[:, 1]) * _CELLS + cells[:, 2], stable=True)
    for start, stop in _spans(len(order), _CHUNK):
        chosen = order[start:stop]
        box = points[chosen]
        outside = torch.maximum(box.min(0).values - means, means - box.max(0).values)
        candidates = (outside.max(dim=1).values <= reach).nonzero()[:, 0]
        for begin, end in _spans(len(candidates), max(1, _PAIRS // len(chosen))):
            yield chosen, candidates[begin:end]


def _spans(count: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, count)) for start in range(0, count, step))
