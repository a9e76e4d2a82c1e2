"""What a splatting engine does; ``backends.choose`` finds the one for a device.

The compiled CPU kernels, the CUDA kernels and the torch reference offer the same operations, so
nothing above this layer asks where a tensor lies.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from fit3d_cli.splat.reference import Projected
from fit3d_cli.splat.view import View

Backend = Literal["auto", "cpu", "cuda", "reference"]
Math = Literal["float32", "tensor"]


class Rasteriser(Protocol):
    """Projection, colours and blending; all of it differentiable."""

    def project(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> Projected:
        """See ``reference.project``. Gradients reach means, quats and scales."""
        ...

    def harmonics(
        self, sh: Tensor, means: Tensor, radii: Tensor, view: View, degree: int
    ) -> Tensor:
        """``[N, 3]`` expansions towards the camera, 0 where culled; the gradient reaches sh."""
        ...

    def blend(
        self, projected: Projected, opacities: Tensor, values: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        """``([H, W, D] blended values, [H, W] alphas)`` with every gradient."""
        ...


class Matrix(Protocol):
    """W of one view, pixels by Gaussians, as an engine holds it."""

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        ...

    @property
    def count(self) -> int:
        """Number of Gaussians N."""
        ...

    @property
    def transmittance(self) -> Tensor:
        """``[H, W]`` what is left behind all Gaussians."""
        ...

    @property
    def nnz(self) -> int:
        """Stored lanes of W: an upper bound of its non-zeros."""
        ...

    def apply(self, values: Tensor) -> Tensor:
        """``[H, W, D]``: W times ``values [N, D]``."""
        ...

    def apply_t(self, maps: Tensor) -> Tensor:
        """``[N, D]``: W transposed times ``maps [H, W, D]``."""
        ...

    def pool(self, h: int, w: int, tent: bool) -> Rows:
        """W pooled onto a token grid."""
        ...


Rows = tuple[Tensor, Tensor, Tensor]
"""A sparse matrix: offsets ``[rows + 1]`` int64, columns ``[nnz]`` int32, values ``[nnz]``."""


class Engine(Rasteriser, Protocol):
    """A rasteriser that also keeps W and multiplies sparse rows."""

    def checked(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as the kernels take it: detached, contiguous, float32, on their device.

        Raises:
            DeviceError: The tensor is on another device.
            TypeError: The tensor is not float32.
        """
        ...

    def weights(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> Matrix:
        """W of one view; no gradients."""
        ...

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
        """W of one view pooled onto a token grid; no gradients."""
        ...

    def csr_apply(self, matrix: Rows, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``[rows, D]``: sparse rows times ``x [columns, D]``, added to ``out`` if given."""
        ...

    def csr_transpose(self, matrix: Rows, columns: int) -> Rows:
        """The transposed matrix; within its rows the columns ascend."""
        ...
