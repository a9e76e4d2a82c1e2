"""Checked calls of the compiled per-Gaussian kernels: types and memory here, arithmetic there.

Every kernel writes into memory that these functions allocate, and gives the same bits for any
number of threads.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fit3d_cli.errors import DeviceError, EnvironmentFault
from fit3d_cli.splat.view import View

if TYPE_CHECKING:
    from fit3d_cli import _kernels as compiled


def load() -> ModuleType:
    """The compiled module.

    Raises:
        EnvironmentFault: The package was not built.
    """
    try:
        from fit3d_cli import _kernels
    except ImportError as error:
        raise EnvironmentFault(
            f"the compiled kernels cannot be loaded ({error})",
            where="fit3d_cli._kernels",
            hint="install the package with pip, which builds them",
        ) from error
    return _kernels


def checked(name: str, tensor: Tensor) -> Tensor:
    """The tensor as a kernel takes it: detached, contiguous, float32, on the CPU.

    Raises:
        DeviceError: The tensor is on another device.
        TypeError: The tensor is not float32.
    """
    if tensor.device.type != "cpu":
        raise DeviceError(
            f"{name} is on {tensor.device}, the kernels of this build run on the CPU",
            where="--device",
            hint="use --device cpu",
        )
    if tensor.dtype != torch.float32:
        raise TypeError(f"{name} is {tensor.dtype}, expected torch.float32")
    return tensor.detach().contiguous()


def _camera(view: View) -> compiled.Camera:
    single = view.to(torch.float32)
    camera: compiled.Camera = load().Camera(
        single.viewmat,
        single.K,
        view.width,
        view.height,
        view.near_plane,
        min(view.far_plane, 3e38),
        view.eps2d,
    )
    return camera


def project_forward(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View, threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(means2d [N,2], conics [N,3], depths [N], radii [N,2])``, see ``reference.project``."""
    count = len(means)
    means2d, conics = torch.empty(count, 2), torch.empty(count, 3)
    depths, radii = torch.empty(count), torch.empty(count, 2, dtype=torch.int32)
    load().project_forward(
        means,
        quats,
        scales,
        opacities,
        _camera(view),
        means2d,
        conics,
        depths,
        radii,
        threads,
    )
    return means2d, conics, depths, radii


class Project(torch.autograd.Function):
    """Projection with gradients to means, quats and scales (opacities only size the extent)."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        view: View,
        threads: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        means, quats = checked("means", means), checked("quats", quats)
        scales, opacities = checked("scales", scales), checked("opacities", opacities)
        means2d, conics, depths, radii = project_forward(
            means, quats, scales, opacities, view, threads
        )
        ctx.save_for_backward(means, quats, scales, opacities, radii)
        ctx.view, ctx.threads = view, threads
        ctx.mark_non_differentiable(radii)
        return means2d, conics, depths, radii

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint."""
        means, quats, scales, opacities, radii = ctx.saved_tensors
        v_means2d, v_conics, v_depths = (grad.contiguous() for grad in grads[:3])
        v_means, v_quats, v_scales = (torch.empty_like(t) for t in (means, quats, scales))
        load().project_backward(
            means,
            quats,
            scales,
            opacities,
            _camera(ctx.view),
            radii,
            v_means2d,
            v_conics,
            v_depths,
            v_means,
            v_quats,
            v_scales,
            ctx.threads,
        )
        return v_means, v_quats, v_scales, None, None, None


class Harmonics(torch.autograd.Function):
    """Spherical-harmonic colours of the visible Gaussians, zero elsewhere.

    The gradient goes to the coefficients only: the viewing direction is held, as in gsplat.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sh: Tensor,
        means: Tensor,
        radii: Tensor,
        center: Tensor,
        degree: int,
        threads: int,
    ) -> Tensor:
        """See the class."""
        sh, means = checked("sh", sh), checked("means", means)
        center = center.to(torch.float32)
        colors = torch.empty(len(means), 3)
        load().harmonics_forward(
            means,
            center,
            sh,
            radii,
            degree,
            colors,
            threads,
        )
        ctx.save_for_backward(means, radii, center)
        ctx.bases, ctx.degree, ctx.threads = sh.shape[1], degree, threads
        return colors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint."""
        means, radii, center = ctx.saved_tensors
        v_sh = torch.empty(len(means), ctx.bases, 3)
        load().harmonics_backward(
            means,
            center,
            radii,
            ctx.degree,
            grads[0].contiguous(),
            v_sh,
            ctx.threads,
        )
        return v_sh, None, None, None, None, None
