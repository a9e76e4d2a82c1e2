"""The engines, and which one serves a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.device import resolve_device, thread_count
from fit3d_cli.errors import DeviceError
from fit3d_cli.splat import kernel, matrix, pooling, reference
from fit3d_cli.splat.engine import Backend, Engine, Math, Rasteriser, Rows
from fit3d_cli.splat.reference import Projected
from fit3d_cli.splat.view import View


@dataclass(frozen=True)
class CpuMatrix:
    """W of one view as the CPU kernels hold it; see ``engine.Matrix``.

    Attributes:
        inner: The matrix.
        threads: CPU threads.
    """

    inner: matrix.Weights
    threads: int

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return self.inner.width

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return self.inner.height

    @property
    def count(self) -> int:
        """Number of Gaussians N."""
        return self.inner.count

    @property
    def transmittance(self) -> Tensor:
        """``[H, W]`` what is left behind all Gaussians."""
        return self.inner.transmittance

    @property
    def nnz(self) -> int:
        """Stored lanes of W: an upper bound of its non-zeros."""
        return int(self.inner.group_counts.sum()) * matrix.LANES

    def apply(self, values: Tensor) -> Tensor:
        """``[H, W, D]``: W times ``values [N, D]``."""
        return matrix.apply(self.inner, kernel.checked("values", values), self.threads)

    def apply_t(self, maps: Tensor) -> Tensor:
        """``[N, D]``: W transposed times ``maps [H, W, D]``."""
        return matrix.apply_t(self.inner, kernel.checked("maps", maps), self.threads)

    def pool(self, h: int, w: int, tent: bool) -> Rows:
        """W pooled onto a token grid."""
        return pooling.pool(self.inner, h, w, tent, self.threads)


@dataclass(frozen=True)
class CpuEngine:
    """The compiled CPU kernels; see ``engine.Engine``.

    Attributes:
        threads: CPU threads; no effect on any result.
    """

    threads: int

    def checked(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as the kernels take it."""
        return kernel.checked(name, tensor)

    def project(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> Projected:
        """The 2D Gaussians of one view."""
        return Projected(
            *kernel.Project.apply(  # type: ignore[no-untyped-call]
                means, quats, scales, opacities, view, self.threads
            )
        )

    def harmonics(
        self, sh: Tensor, means: Tensor, radii: Tensor, view: View, degree: int
    ) -> Tensor:
        """Colours towards the camera."""
        colors: Tensor = kernel.Harmonics.apply(  # type: ignore[no-untyped-call]
            sh, means, radii, view.center, degree, self.threads
        )
        return colors

    def blend(
        self, projected: Projected, opacities: Tensor, values: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        """Blended values and alphas."""
        image, alphas = matrix.Blend.apply(  # type: ignore[no-untyped-call]
            *projected, opacities, values, width, height, self.threads
        )
        return image, alphas

    def weights(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> CpuMatrix:
        """W of one view."""
        geometry = self._geometry(means, quats, scales, opacities, view)
        built = matrix.build_weights(*geometry, view.width, view.height, self.threads)
        return CpuMatrix(built, self.threads)

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
        """W of one view pooled onto a token grid, W itself never stored."""
        geometry = self._geometry(means, quats, scales, opacities, view)
        return pooling.pool_view(*geometry, view.width, view.height, h, w, tent, self.threads)

    def _geometry(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        opacities = kernel.checked("opacities", opacities)
        projected = kernel.project_forward(
            kernel.checked("means", means),
            kernel.checked("quats", quats),
            kernel.checked("scales", scales),
            opacities,
            view,
            self.threads,
        )
        return *projected, opacities

    def csr_apply(self, matrix: Rows, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Sparse rows times ``x``."""
        return pooling.csr_apply(*matrix, x, self.threads, out)

    def csr_transpose(self, matrix: Rows, columns: int) -> Rows:
        """The transposed sparse rows."""
        result = (
            torch.empty(columns + 1, dtype=torch.int64),
            torch.empty(len(matrix[1]), dtype=torch.int32),
            torch.empty(len(matrix[2])),
        )
        pooling.csr_transpose(*matrix, *result)
        return result


@dataclass(frozen=True)
class ReferenceEngine:
    """Plain torch on the CPU, in the precision of the Gaussians; see ``engine.Rasteriser``."""

    def project(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View
    ) -> Projected:
        """The 2D Gaussians of one view."""
        return reference.project(means, quats, scales, opacities, view.to(means.dtype))

    def harmonics(
        self, sh: Tensor, means: Tensor, radii: Tensor, view: View, degree: int
    ) -> Tensor:
        """Colours towards the camera."""
        visible = radii[:, :1] > 0
        directions = torch.where(visible, means.detach() - view.center.to(means.dtype), 1.0)
        return reference.spherical_harmonics(sh, directions, degree) * visible

    def blend(
        self, projected: Projected, opacities: Tensor, values: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        """Blended values and alphas."""
        dense = reference.blend_weights(projected, opacities, width, height)
        image = (dense.weights @ values).reshape(height, width, -1)
        return image, 1 - dense.transmittance.reshape(height, width)


def automatic(device: torch.device) -> Backend:
    """The backend of a device."""
    return "cuda" if device.type == "cuda" else "cpu"


def splat_device(name: str) -> torch.device:
    """Where Gaussians are splatted if the user says ``--device name``.

    With ``auto`` a GPU that the CUDA kernels cannot use, or were not built for, is left to the
    backbones.

    Raises:
        DeviceError: ``cuda`` was asked for and the kernels cannot run there.
    """
    device = resolve_device(name)
    if device.type == "cuda":
        from fit3d_cli.splat.cuda import loader

        device = torch.device("cuda", torch.cuda.current_device())
        try:
            loader.require(device)
        except DeviceError:
            if name != "auto":
                raise
            return torch.device("cpu")
    return device


def engine_for(
    device: torch.device,
    backend: Backend = "auto",
    *,
    threads: int | None = None,
    math: Math = "float32",
    deterministic: bool = True,
) -> Engine:
    """The engine for tensors of a device.

    Args:
        device: Where the Gaussians lie.
        backend: ``auto`` (by the device), ``cpu`` or ``cuda``.
        threads: CPU threads, None for torch's setting.
        math: ``float32``, or ``tensor`` for tf32 products on CUDA's tensor cores.
        deterministic: On CUDA, whether sums have a fixed order (the CPU's always have).

    Raises:
        ValueError: An unknown option, or tensor cores on the CPU.
    """
    if backend not in ("auto", "cpu", "cuda"):
        raise ValueError(f"backend {backend!r}, expected 'auto', 'cpu' or 'cuda'")
    if math not in ("float32", "tensor"):
        raise ValueError(f"math {math!r}, expected 'float32' or 'tensor'")
    if (automatic(device) if backend == "auto" else backend) == "cuda":
        from fit3d_cli.splat.cuda.engine import CudaEngine
        from fit3d_cli.splat.cuda.matrix import Options

        return CudaEngine(device, Options(math == "tensor", deterministic))
    if math == "tensor":
        raise ValueError("math 'tensor' needs a CUDA device")
    return CpuEngine(threads or thread_count())


def rasteriser_for(
    device: torch.device,
    backend: Backend = "auto",
    *,
    threads: int | None = None,
    math: Math = "float32",
    deterministic: bool = True,
) -> Rasteriser:
    """As ``engine_for``, with backend ``reference`` as well."""
    if backend == "reference":
        return ReferenceEngine()
    return engine_for(device, backend, threads=threads, math=math, deterministic=deterministic)
