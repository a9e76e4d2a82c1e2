"""Projection and colours on CUDA, with their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fit3d_cli.errors import DeviceError
from fit3d_cli.splat.cuda import loader
from fit3d_cli.splat.cuda.session import Session, session
from fit3d_cli.splat.view import View

if TYPE_CHECKING:
    from fit3d_cli import _cuda as compiled


def checked(name: str, tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor as a kernel takes it: detached, contiguous, float32, on the device.

    Raises:
        DeviceError: The tensor is on another device.
        TypeError: The tensor is not float32.
    """
    if tensor.device != device:
        raise DeviceError(
            f"{name} is on {tensor.device}, the others on {device}",
            where="--device",
            hint="move all tensors to one device",
        )
    if tensor.dtype != torch.float32:
        raise TypeError(f"{name} is {tensor.dtype}, expected torch.float32")
    return tensor.detach().contiguous()


def camera_of(view: View) -> compiled.Camera:
    """The camera stays in host memory: every thread gets it as an argument of the launch."""
    camera: compiled.Camera = loader.load().Camera(
        view.viewmat.detach().to("cpu", torch.float32).contiguous(),
        view.K.detach().to("cpu", torch.float32).contiguous(),
        view.width,
        view.height,
        view.near_plane,
        min(view.far_plane, 3e38),
        view.eps2d,
    )
    return camera


def project_forward(
    on: Session,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    camera: compiled.Camera,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(means2d [N,2], conics [N,3], depths [N], radii [N,2])``, see ``reference.project``."""
    count = len(means)
    means2d, conics = on.empty("projection", count, 2), on.empty("projection", count, 3)
    depths = on.empty("projection", count)
    radii = on.empty("projection", count, 2, dtype=torch.int32)
    on.call(
        "project_forward", means, quats, scales, opacities, camera, means2d, conics, depths, radii
    )
    return means2d, conics, depths, radii


class Project(torch.autograd.Function):
    """Projection with gradients to means, quats and scales (opacities only size the extent)."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        device = means.device
        means, quats = checked("means", means, device), checked("quats", quats, device)
        scales = checked("scales", scales, device)
        opacities = checked("opacities", opacities, device)
        with session(device) as on:
            camera = camera_of(view)
            projected = project_forward(on, means, quats, scales, opacities, camera)
        ctx.save_for_backward(means, quats, scales, opacities, projected[3])
        ctx.camera = camera
        ctx.mark_non_differentiable(projected[3])
        return projected

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint."""
        means, quats, scales, opacities, radii = ctx.saved_tensors
        v_means2d, v_conics, v_depths = (grad.contiguous() for grad in grads[:3])
        with session(means.device) as on:
            v_means, v_quats, v_scales = (
                on.empty("gradients", *t.shape) for t in (means, quats, scales)
            )
            on.call(
                "project_backward", means, quats, scales, opacities, ctx.camera, radii,
                v_means2d, v_conics, v_depths, v_means, v_quats, v_scales,
            )  # fmt: skip
        return v_means, v_quats, v_scales, None, None


class Harmonics(torch.autograd.Function):
    """Spherical-harmonic colours of the visible Gaussians, zero elsewhere.

    The gradient goes to the coefficients only: the viewing direction is held, as in gsplat.
    """

    @staticmethod
    def forward(
        ctx: Any, sh: Tensor, means: Tensor, radii: Tensor, view: View, degree: int
    ) -> Tensor:
        """See the class."""
        device = means.device
        sh, means = checked("sh", sh, device), checked("means", means, device)
        center = view.center.detach().to("cpu", torch.float32)
        with session(device) as on:
            colors = on.empty("colours", len(means), 3)
            on.call("harmonics_forward", means, center, sh, radii, degree, colors)
        ctx.save_for_backward(means, radii)
        ctx.center, ctx.bases, ctx.degree = center, sh.shape[1], degree
        return colors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint."""
        means, radii = ctx.saved_tensors
        with session(means.device) as on:
            v_sh = on.empty("gradients", len(means), ctx.bases, 3)
            upstream = grads[0].contiguous()
            on.call("harmonics_backward", means, ctx.center, radii, ctx.degree, upstream, v_sh)
        return v_sh, None, None, None, None
