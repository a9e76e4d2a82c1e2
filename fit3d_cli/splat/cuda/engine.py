"""The splatting engine on CUDA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.splat.cuda import rows
from fit3d_cli.splat.cuda.matrix import Blend, CudaMatrix, Options, build
from fit3d_cli.splat.cuda.project import Harmonics, Project, camera_of, checked, project_forward
from fit3d_cli.splat.cuda.session import session
from fit3d_cli.splat.engine import Rows
from fit3d_cli.splat.reference import Projected
from fit3d_cli.splat.view import View


@dataclass(frozen=True)
class CudaEngine:
    """See ``engine.Engine``.

    Attributes:
        device: Where everything lies.
        options: How products with W are computed.
    """

    device: torch.device
    options: Options

    def checked(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as the kernels take it."""
        return checked(name, tensor, self.device)

    def project(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> Projected:
        """The 2D Gaussians of one view."""
        return Projected(
            *Project.apply(means, quats, scales, opacities, view)  # type: ignore[no-untyped-call]
        )

    def harmonics(
        self, sh: Tensor, means: Tensor, radii: Tensor, view: View, degree: int
    ) -> Tensor:
        """Colours towards the camera."""
        colors: Tensor = Harmonics.apply(  # type: ignore[no-untyped-call]
            sh, means, radii, view, degree
        )
        return colors

    def blend(
        self, projected: Projected, opacities: Tensor, values: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        """Blended values and alphas."""
        image, alphas = Blend.apply(  # type: ignore[no-untyped-call]
            *projected, opacities, values, width, height, self.options
        )
        return image, alphas

    def weights(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> CudaMatrix:
        """W of one view."""
        means, quats = self.checked("means", means), self.checked("quats", quats)
        scales, opacities = self.checked("scales", scales), self.checked("opacities", opacities)
        with session(self.device) as on:
            projected = project_forward(on, means, quats, scales, opacities, camera_of(view))
            return build(on, *projected, opacities, view.width, view.height, self.options)

    def token_weights(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        view: View,
        h: int,
        w: int,
        tent: bool,
    ) -> Rows:
        """W of one view pooled onto a token grid."""
        return self.weights(means, quats, scales, opacities, view).pool(h, w, tent)

    def csr_apply(self, matrix: Rows, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Sparse rows times ``x``."""
        return rows.csr_apply(matrix, x, out)

    def csr_transpose(self, matrix: Rows, columns: int) -> Rows:
        """The transposed sparse rows."""
        return rows.csr_transpose(matrix, columns)
