"""The splatting operations in plain torch: slow, readable, any precision. This is "correct".

No tiles and no lists: the weight matrix W is dense ``[pixels, Gaussians]``. Everything is
differentiable by autograd. The kernels must agree with this file; the formulas are in
``kernels/README.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.splat.view import View

ALPHA_MIN = 1 / 255  # fainter contributions are skipped
ALPHA_MAX = 0.99  # alphas are clamped here
TRANSMITTANCE_MIN = 1e-4  # a pixel stops before falling to this
QUAT_NORM_MIN = 1e-12  # shorter quaternions have no direction


class Projected(NamedTuple):
    """2D Gaussians; all zero where culled.

    Attributes:
        means2d: ``[N, 2]`` centres in pixels.
        conics: ``[N, 3]`` inverse 2D covariance ``(A, B, C)``: xx, xy, yy.
        depths: ``[N]`` z of the centre in camera space.
        radii: ``[N, 2]`` int32 half-extents in pixels, 0 where culled.
    """

    means2d: Tensor
    conics: Tensor
    depths: Tensor
    radii: Tensor


def project(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
) -> Projected:
    """EWA projection (Zwicker 2001) with gsplat's clamp of the Jacobian.

    Args:
        means: ``[N, 3]``.
        quats: ``[N, 4]`` wxyz, any length above 1e-12.
        scales: ``[N, 3]``.
        opacities: ``[N]``; they only decide the extent (where alpha >= 1/255).
        view: The camera, in the precision of the Gaussians.

    Gaussians that are behind the near plane, beyond the far plane, off the picture, not finite
    or without a direction are culled and receive no gradient.
    """
    finite = (
        torch.isfinite(means).all(1)
        & torch.isfinite(quats).all(1)
        & torch.isfinite(scales).all(1)
        & torch.isfinite(opacities)
        & (quats.norm(dim=1) > QUAT_NORM_MIN)
        & (opacities >= ALPHA_MIN)
    )
    z = torch.where(finite, (means.detach() @ view.viewmat[2, :3]) + view.viewmat[2, 3], 0)
    index = torch.nonzero(finite & (z > view.near_plane) & (z < view.far_plane))[:, 0]
    # Only sound Gaussians enter the formulas, so no NaN can leak into a gradient.
    means2d, conics, depths, covars2d = _project_sound(
        means[index], quats[index], scales[index], view
    )
    reach = (2 * torch.log(255 * opacities[index].detach()))[:, None]
    diagonal = torch.diagonal(covars2d.detach(), dim1=1, dim2=2)
    radii = torch.ceil(torch.sqrt(reach * diagonal)).clamp(1, 1e9)
    size = torch.tensor([view.width, view.height], dtype=means.dtype)
    inside = ((means2d + radii > 0) & (means2d - radii < size)).all(1)
    inside &= torch.isfinite(means2d).all(1) & torch.isfinite(conics).all(1)
    kept = index[inside]
    count = len(means)
    return Projected(
        means.new_zeros(count, 2).index_copy(0, kept, means2d[inside]),
        means.new_zeros(count, 3).index_copy(0, kept, conics[inside]),
        means.new_zeros(count).index_copy(0, kept, depths[inside]),
        torch.zeros(count, 2, dtype=torch.int32).index_copy(0, kept, radii[inside].to(torch.int32)),
    )


def _project_sound(
    means: Tensor, quats: Tensor, scales: Tensor, view: View
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Projection of Gaussians in front of the camera, with their 2D covariances."""
    rotation = view.viewmat[:3, :3]
    points = means @ rotation.T + view.viewmat[:3, 3]
    x, y, z = points.unbind(1)
    fx, fy, cx, cy = view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]
    # The linearisation is trusted up to 15 % beyond the picture's border.
    margin_u, margin_v = 0.15 * view.width / fx, 0.15 * view.height / fy
    u = (x / z).clamp(-cx / fx - margin_u, (view.width - cx) / fx + margin_u)
    v = (y / z).clamp(-cy / fy - margin_v, (view.height - cy) / fy + margin_v)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], 1)
    factor = jacobian.reshape(-1, 2, 3) @ rotation @ (quats_to_matrices(quats) * scales[:, None])
    covars2d = factor @ factor.transpose(1, 2) + view.eps2d * torch.eye(2, dtype=means.dtype)
    xx, xy, yy = covars2d[:, 0, 0], covars2d[:, 0, 1], covars2d[:, 1, 1]
    det = xx * yy - xy * xy
    conics = torch.stack([yy, -xy, xx], 1) / det[:, None]
    return torch.stack([fx * x / z + cx, fy * y / z + cy], 1), conics, z, covars2d


class Dense(NamedTuple):
    """The weight matrix of one view.

    Attributes:
        weights: ``[H * W, N]`` W, ``alpha_n T_n`` in the columns' own order.
        transmittance: ``[H * W]`` what is left behind all Gaussians.
        kink: ``[H * W]`` smallest relative distance of a pixel to a discontinuity (alpha at
            1/255, T at 1e-4) or to the clamp of alpha; tests leave out pixels close to one.
    """

    weights: Tensor
    transmittance: Tensor
    kink: Tensor


def blend_weights(projected: Projected, opacities: Tensor, width: int, height: int) -> Dense:
    """Front-to-back weights of every pixel and Gaussian.

    ``alpha = min(0.99, opacity exp(-sigma))``, skipped below 1/255; a pixel stops before the
    Gaussian that would take its transmittance to 1e-4. Ties in depth go to the lower index.
    """
    means2d, conics, depths, radii = projected
    index = torch.nonzero(radii[:, 0] > 0)[:, 0]
    index = index[torch.argsort(depths[index].detach(), stable=True)]
    dtype = means2d.dtype
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=dtype) + 0.5, torch.arange(width, dtype=dtype) + 0.5,
        indexing="ij",
    )  # fmt: skip
    dx = means2d[index, 0] - xs.reshape(-1, 1)
    dy = means2d[index, 1] - ys.reshape(-1, 1)
    a, b, c = conics[index].unbind(1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    raw = opacities[index] * torch.exp(-sigma)
    counts = (raw >= ALPHA_MIN) & (sigma >= 0)
    alphas = torch.where(counts, raw.clamp(max=ALPHA_MAX), 0)
    after = torch.cumprod(1 - alphas, dim=1)
    used = after > TRANSMITTANCE_MIN  # before the stop nothing differs, after it nothing counts
    alphas = torch.where(used, alphas, 0)
    left = torch.cumprod(1 - alphas, dim=1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
    weights = left.new_zeros(len(left), len(means2d)).index_copy(1, index, alphas * before)
    transmittance = left[:, -1] if len(index) else left.new_ones(len(left))
    distances = torch.cat(
        [(raw / ALPHA_MIN - 1).abs(), (raw / ALPHA_MAX - 1).abs(),
         (after / TRANSMITTANCE_MIN - 1).abs()], dim=1,
    ).detach()  # fmt: skip
    kink = distances.min(dim=1).values if len(index) else left.new_ones(len(left))
    return Dense(weights, transmittance, kink)


def axis_kernel(tokens: int, pixels: int, mode: str, dtype: torch.dtype) -> Tensor:
    """``[tokens, pixels]`` pooling kernel of one axis; rows sum to one.

    ``box`` is the mean over the token's patch. ``tent`` is the adjoint of bilinear upsampling
    (corners not aligned, border held) with its rows normalised.
    """
    step = pixels / tokens
    centres = torch.arange(pixels, dtype=dtype) + 0.5
    index = torch.arange(tokens, dtype=dtype)[:, None]
    if mode == "box":
        kernel = (torch.floor(centres / step) == index).to(dtype)
    else:
        position = (centres / step - 0.5).clamp(0, tokens - 1)
        kernel = (1 - (position - index).abs()).clamp_min(0)
    return kernel / kernel.sum(1, keepdim=True)


def pool(weights: Tensor, width: int, height: int, h: int, w: int, mode: str) -> Tensor:
    """``[h * w, N]`` pooled weights ``A = kernel W`` of dense ``[H * W, N]`` weights."""
    rows = axis_kernel(h, height, mode, weights.dtype)
    cols = axis_kernel(w, width, mode, weights.dtype)
    image = weights.reshape(height, width, -1)
    return torch.einsum("ty,sx,yxn->tsn", rows, cols, image).reshape(h * w, -1)


def spherical_harmonics(sh: Tensor, directions: Tensor, degree: int) -> Tensor:
    """``[N, 3]`` value of the expansion in the given directions.

    The bases are built from associated Legendre polynomials by their recurrences, so that they
    check the kernel's closed forms independently. Signs carry the Condon-Shortley phase, order
    is (l, m), as in 3DGS.

    Args:
        sh: ``[N, K, 3]`` coefficients.
        directions: ``[N, 3]``, any length above zero.
        degree: Highest l that is used.
    """
    x, y, z = torch.nn.functional.normalize(directions, dim=1).unbind(1)
    # real[m] + i imag[m] = (x + i y)^m = sin(theta)^m exp(i m phi)
    real, imag = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(degree):
        real, imag = [*real, real[-1] * x - imag[-1] * y], [*imag, real[-1] * y + imag[-1] * x]
    bases = []
    for order in range(degree + 1):
        for m in range(-order, order + 1):
            k = abs(m)
            # P_l^m / sin^m by recurrence in l, with the phase (-1)^m.
            before = torch.zeros_like(z)
            current = torch.full_like(z, (-1.0) ** k * math.prod(range(1, 2 * k, 2)))
            for step in range(k + 1, order + 1):
                following = ((2 * step - 1) * z * current - (step + k - 1) * before) / (step - k)
                before, current = current, following
            norm = math.sqrt(
                (2 * order + 1) / (4 * math.pi)
                * math.factorial(order - k) / math.factorial(order + k)
            )  # fmt: skip
            angular = real[k] if m >= 0 else imag[k]
            bases.append(norm * (math.sqrt(2) if m else 1.0) * current * angular)
    return (torch.stack(bases, 1)[:, :, None] * sh[:, : len(bases)]).sum(1)
