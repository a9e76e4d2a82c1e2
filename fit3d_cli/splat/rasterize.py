"""The rasteriser's facade: project, bin, weigh, blend - differentiable, on the CPU or CUDA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat.backends import rasteriser_for
from fit3d_cli.splat.engine import Backend, Math, Rasteriser
from fit3d_cli.splat.reference import Projected
from fit3d_cli.splat.view import EPS2D, FAR_PLANE, NEAR_PLANE, View
from fit3d_cli.splat.weights import TokenWeights, ViewWeights, view_weights

__all__ = [
    "Backend",
    "Math",
    "Picture",
    "Rendering",
    "TokenWeights",
    "ViewWeights",
    "rasterize",
    "render_gaussians",
    "view_weights",
]


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
    backend: Backend = "auto",
    threads: int | None = None,
    math: Math = "float32",
    deterministic: bool = True,
) -> Rendering:
    """Splat values into one view. Gradients reach every input but the camera.

    Only the gradients that are asked for are computed: where the geometry is frozen, the
    backward pass is one product with the transposed weights.

    Args:
        means: ``[N, 3]`` centres in the world.
        quats: ``[N, 4]`` wxyz, any non-zero length.
        scales: ``[N, 3]`` standard deviations, world units.
        opacities: ``[N]`` in [0, 1].
        values: ``[N, D]``, any D.
        viewmat: ``[4, 4]`` world to camera, OpenCV axes, any float type, any device.
        K: ``[3, 3]`` intrinsics in pixels, pixel centres at +0.5, likewise.
        width: Picture width in pixels.
        height: Picture height in pixels.
        near_plane: Nearest depth, world units.
        far_plane: Farthest depth, world units.
        eps2d: Blur of the 2D covariances, pixels squared.
        backend: ``auto`` (by the device of ``means``), ``cpu`` or ``cuda`` (float32 kernels), or
            ``reference`` (torch on the CPU, the precision of ``means``).
        threads: CPU threads of the kernels, None for torch's setting; no effect on the result.
        math: On CUDA ``tensor`` multiplies in tf32 (relative error 2^-11 per factor) and adds in
            float32; ``float32`` is exact to rounding.
        deterministic: On CUDA, whether gradients are summed in a fixed order. The CPU always does.

    Raises:
        ValueError: A shape, a camera or an option does not fit.
        TypeError: A tensor is not float32 (all backends but ``reference``).
        DeviceError: A tensor is on another device than the backend, or CUDA cannot be used.
        EnvironmentFault: The device is out of memory.
    """
    engine = rasteriser_for(
        means.device, backend, threads=threads, math=math, deterministic=deterministic
    )
    view = View(viewmat.cpu(), K.cpu(), width, height, near_plane, far_plane, eps2d)
    projected = _project(engine, means, quats, scales, opacities, view)
    return _blend(engine, projected, opacities, values, view)


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
    backend: Backend = "auto",
    threads: int | None = None,
    math: Math = "float32",
    deterministic: bool = True,
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
        backend: As in ``rasterize``.
        threads: CPU threads of the kernels, None for torch's setting.
        math: As in ``rasterize``.
        deterministic: As in ``rasterize``.

    Raises:
        ValueError: As ``rasterize``, or a degree that is not stored.
        DeviceError: As ``rasterize``.
        EnvironmentFault: As ``rasterize``.
    """
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    if not 0 <= degree <= gaussians.sh_degree:
        raise ValueError(f"sh_degree {degree}, stored are 0 to {gaussians.sh_degree}")
    g = gaussians
    engine = rasteriser_for(
        g.means.device, backend, threads=threads, math=math, deterministic=deterministic
    )
    view = View(viewmat.cpu(), K.cpu(), width, height, near_plane, far_plane, eps2d)
    projected = _project(engine, g.means, g.quats, g.scales, g.opacities, view)
    colors = engine.harmonics(g.sh, g.means, projected.radii, view, degree)
    values = torch.cat([(colors + 0.5).clamp_min(0), projected.depths[:, None]], dim=1)
    out = _blend(engine, projected, g.opacities, values, view)
    return Picture(out.values[..., :3], out.values[..., 3], out.alphas, out.means2d, out.radii)


def _project(
    engine: Rasteriser,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    view: View,
) -> Projected:
    check_dims(
        means=(means, "N 3"),
        quats=(quats, "N 4"),
        scales=(scales, "N 3"),
        opacities=(opacities, "N"),
    )
    return engine.project(means, quats, scales, opacities, view)


def _blend(
    engine: Rasteriser, projected: Projected, opacities: Tensor, values: Tensor, view: View
) -> Rendering:
    check_dims(opacities=(opacities, "N"), values=(values, "N D"))
    # The gradient of the centres is read from this node, so blending starts from it.
    means2d = projected.means2d[None]
    projected = projected._replace(means2d=means2d[0])
    image, alphas = engine.blend(projected, opacities, values, view.width, view.height)
    return Rendering(image, alphas, means2d, projected.radii[None], projected.depths)
