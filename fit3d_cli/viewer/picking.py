"""From a ray to the first surface: the Gaussians along it, front to back, computed exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.shapes import check_dims

# As in the rasteriser: pixels squared of blur, and the alphas that it draws.
_BLUR, _LEAST, _MOST = 0.3, 1 / 255, 0.999
_REACH = 3.33  # deviations after which even an opaque Gaussian falls below the least alpha
_NOTHING = 0.05  # accumulated opacity below which a ray has met nothing


@dataclass(frozen=True)
class Hit:
    """Where a ray meets the scene.

    Attributes:
        point: ``[3]`` first surface, in the world.
        distance: Along the ray, world units.
        gaussian: The Gaussian at which the accumulated opacity passes one half.
        alpha: Accumulated opacity of the whole ray.
        expected: Mean distance along the ray, weighted as a renderer weighs depth.
    """

    point: Tensor
    distance: float
    gaussian: int
    alpha: float
    expected: float


def pick(
    gaussians: Gaussians, origin: Tensor, direction: Tensor, *, pixel: float = 0.0
) -> Hit | None:
    """The first surface along a ray.

    Along the ray ``o + t d`` a Gaussian with mean m and covariance S is strongest at
    ``t = d' S^-1 (m - o) / d' S^-1 d``; its opacity there is ``o exp(-D^2 / 2)`` with the
    Mahalanobis distance D. Sorted by t these are blended front to back; the surface is where
    half of the light is gone, or half of what is ever stopped for a ray that ends half open.

    Args:
        gaussians: N Gaussians.
        origin: ``[3]`` start of the ray.
        direction: ``[3]``, any length but zero.
        pixel: Angle of a pixel in radians. A pixel is no line: thin Gaussians are widened by
            what the rasteriser widens them (0.3 pixels squared).

    Returns:
        The hit, or None where the ray meets (almost) nothing.
    """
    check_dims(origin=(origin, "3"), direction=(direction, "3"))
    start = origin.double().to(gaussians.means.device)
    ray = torch.nn.functional.normalize(direction.double().to(start), dim=0)
    offsets = gaussians.means.double() - start
    along = offsets @ ray
    beside = (offsets.square().sum(1) - along.square()).clamp(min=0).sqrt()
    widths = gaussians.scales.double().amax(1) + _BLUR**0.5 * pixel * along.abs()
    near = (beside < _REACH * widths) & (along > -_REACH * widths)
    near &= gaussians.opacities >= _LEAST
    index = near.nonzero()[:, 0]
    rotations = quats_to_matrices(gaussians.quats[index].double())  # columns are the axes
    local = torch.einsum("nij,ni->nj", rotations, offsets[index])
    axis = torch.einsum("nij,i->nj", rotations, ray)
    blur = _BLUR * (pixel * along[index, None]).square()
    inverse = 1 / (gaussians.scales[index].double().square() + blur).clamp(min=1e-30)
    distances = (axis * inverse * local).sum(1) / (axis * inverse * axis).sum(1)
    squared = (inverse * (local - distances[:, None] * axis).square()).sum(1)
    alphas = (gaussians.opacities[index].double() * torch.exp(-squared / 2)).clamp(max=_MOST)
    kept = (alphas >= _LEAST) & (distances > 0)
    index, distances, alphas = index[kept], distances[kept], alphas[kept]
    order = distances.argsort(stable=True)
    index, distances, alphas = index[order], distances[order], alphas[order]
    open_after = torch.cumprod(1 - alphas, 0)
    total = 1 - float(open_after[-1]) if len(index) else 0.0
    if total < _NOTHING:
        return None
    gone = 1 - open_after
    first = int((gone >= min(0.5, total / 2) - 1e-12).nonzero()[0, 0])
    before = torch.cat([open_after.new_ones(1), open_after[:-1]])
    expected = float((before * alphas * distances).sum()) / total
    distance = float(distances[first])
    point = (start + distance * ray).to(origin)
    return Hit(point, distance, int(index[first]), total, expected)
