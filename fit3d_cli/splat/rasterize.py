"""The rasteriser's facade: project, bin, weigh, blend - differentiable, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fit3d_cli.device import thread_count
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat import kernel, matrix, reference
from fit3d_cli.splat.view import EPS2D, FAR_PLANE, NEAR_PLANE, View
from fit3d_cli.splat.weights import TokenWeights, ViewWeights, view_weights

__all__ = [
    "Picture",
    "Rendering",
    "TokenWeights",
    "ViewWeights",
    "rasterize",
    "render_gaussians",
    "view_weights",
]

Backend = Literal["cpu", "reference"]


@dataclass(frozen=True)
class Rendering:
    """What one view shows.

    Attributes:
        values: ``[H, W, D]`` blended values, not divided by alpha.
        alphas: ``[H, W]`` accumulated opacity.
        means2d: ``[1, N, 2]`` projected centres in pixels, part of the autograd graph: call
            ``retain_grad`` on it before the backward pass to read its gradient.
        radii: ``[1, N, 2]`` int32 half-extents in pixels, 0 where culled.
        depths: ``[N]`` camera z of the centres, 0 where culled.
    """

    values: Tensor
    alphas: Tensor
    means2d: Tensor
    radii: Tensor
    depths: Tensor


@dataclass(frozen=True)
class Picture:
    """Colour and depth of one view.

    Attributes:
        rgb: ``[H, W, 3]`` colour over black; add ``(1 - alphas) * background`` for another.
        weighted_depth: ``[H, W]`` sum of weight times z.
        alphas: ``[H, W]`` accumulated opacity.
        means2d: ``[1, N, 2]``, as in ``Rendering``.
        radii: ``[1, N, 2]``, as in ``Rendering``.
    """

    rgb: Tensor
    weighted_depth: Tensor
    alphas: Tensor
    means2d: Tensor
    radii: Tensor

    @property
    def depth(self) -> Tensor:
        """``[H, W]`` expected depth given a hit, world units; 0 where nothing was hit."""
        return self.weighted_depth / self.alphas.clamp_min(1e-10)


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    values: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = NEAR_PLANE,
    far_plane: float = FAR_PLANE,
    eps2d: float = EPS2D,
    backend: Backend = "cpu",
    threads: int | None = None,
) -> Rendering:
    """Splat values into one view. Gradients reach every input but the camera.

    Args:
        means: ``[N, 3]`` centres in the world.
        quats: ``[N, 4]`` wxyz, any non-zero length.
        scales: ``[N, 3]`` standard deviations, world units.
        opacities: ``[N]`` in [0, 1].
        values: ``[N, D]``, any D.
        viewmat: ``[4, 4]`` world to camera, OpenCV axes, any float type.
        K: ``[3, 3]`` intrinsics in pixels, pixel centres at +0.5, any float type.
        width: Picture width in pixels.
        height: Picture height in pixels.
        near_plane: Nearest depth, world units.
        far_plane: Farthest depth, world units.
        eps2d: Blur of the 2D covariances, pixels squared.
        backend: ``cpu`` (float32 kernels) or ``reference`` (torch, the precision of ``means``).
        threads: CPU threads of the kernels, None for torch's setting; no effect on the result.

    Raises:
        ValueError: A shape or a camera does not fit.
        TypeError: A tensor is not float32 (backend ``cpu``).
        DeviceError: A tensor is not on the CPU (backend ``cpu``).
    """
    view = View(viewmat, K, width, height, near_plane, far_plane, eps2d)
    projected = _project(means, quats, scales, opacities, view, backend, threads)
    return _blend(projected, opacities, values, view, backend, threads)


def render_gaussians(
    gaussians: Gaussians,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    near_plane: float = NEAR_PLANE,
    far_plane: float = FAR_PLANE,
    eps2d: float = EPS2D,
    backend: Backend = "cpu",
    threads: int | None = None,
) -> Picture:
    """Colour and expected depth in one pass.

    Colours are ``max(SH(direction) + 0.5, 0)`` (3DGS). The viewing direction is held: its
    gradient does not reach the means (as in gsplat).

    Args:
        gaussians: N Gaussians; their tensors may require gradients.
        viewmat: ``[4, 4]`` world to camera.
        K: ``[3, 3]`` intrinsics in pixels.
        width: Picture width in pixels.
        height: Picture height in pixels.
        sh_degree: Highest degree in use, by default all that are stored.
        near_plane: Nearest depth, world units.
        far_plane: Farthest depth, world units.
        eps2d: Blur of the 2D covariances, pixels squared.
        backend: ``cpu`` or ``reference``.
        threads: CPU threads of the kernels, None for torch's setting.

    Raises:
        ValueError: As ``rasterize``, or a degree that is not stored.
    """
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    if not 0 <= degree <= gaussians.sh_degree:
        raise ValueError(f"sh_degree {degree}, stored are 0 to {gaussians.sh_degree}")
    view = View(viewmat, K, width, height, near_plane, far_plane, eps2d)
    g = gaussians
    projected = _project(g.means, g.quats, g.scales, g.opacities, view, backend, threads)
    if backend == "reference":
        visible = projected.radii[:, :1] > 0
        directions = torch.where(visible, g.means.detach() - view.center.to(g.means.dtype), 1.0)
        colors = reference.spherical_harmonics(g.sh, directions, degree) * visible
    else:
        colors = kernel.Harmonics.apply(  # type: ignore[no-untyped-call]
            g.sh, g.means, projected.radii, view.center, degree, threads or thread_count()
        )
    values = torch.cat([(colors + 0.5).clamp_min(0), projected.depths[:, None]], dim=1)
    out = _blend(projected, g.opacities, values, view, backend, threads)
    return Picture(out.values[..., :3], out.values[..., 3], out.alphas, out.means2d, out.radii)


def _project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    view: View,
    backend: Backend,
    threads: int | None,
) -> reference.Projected:
    check_dims(
        means=(means, "N 3"),
        quats=(quats, "N 4"),
        scales=(scales, "N 3"),
        opacities=(opacities, "N"),
    )
    if backend == "reference":
        return reference.project(means, quats, scales, opacities, view.to(means.dtype))
    if backend != "cpu":
        raise ValueError(f"backend {backend!r}, expected 'cpu' or 'reference'")
    return reference.Projected(
        *kernel.Project.apply(  # type: ignore[no-untyped-call]
            means, quats, scales, opacities, view, threads or thread_count()
        )
    )


def _blend(
    projected: reference.Projected,
    opacities: Tensor,
    values: Tensor,
    view: View,
    backend: Backend,
    threads: int | None,
) -> Rendering:
    check_dims(opacities=(opacities, "N"), values=(values, "N D"))
    # The gradient of the centres is read from this node, so blending starts from it.
    means2d = projected.means2d[None]
    projected = projected._replace(means2d=means2d[0])
    width, height = view.width, view.height
    if backend == "reference":
        dense = reference.blend_weights(projected, opacities, width, height)
        image = (dense.weights @ values).reshape(height, width, -1)
        alphas = 1 - dense.transmittance.reshape(height, width)
    else:
        image, alphas = matrix.Blend.apply(  # type: ignore[no-untyped-call]
            projected.means2d, projected.conics, projected.depths, projected.radii, opacities,
            values, width, height, threads or thread_count(),
        )  # fmt: skip
    return Rendering(image, alphas, means2d, projected.radii[None], projected.depths)
