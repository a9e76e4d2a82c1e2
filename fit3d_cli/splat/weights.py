"""The weights of a frozen scene: W of one view, and W pooled onto a token grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat.backends import engine_for
from fit3d_cli.splat.engine import Backend, Engine, Math, Matrix, Rows
from fit3d_cli.splat.view import EPS2D, FAR_PLANE, NEAR_PLANE, View

PoolMode = Literal["box", "tent"]


class _Linear(torch.autograd.Function):
    """``operator.apply`` with the adjoint as its gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, operator: ViewWeights | TokenWeights) -> Tensor:
        """See the class."""
        ctx.operator = operator
        return operator._forward(features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The adjoint."""
        return ctx.operator.apply_t(grads[0]), None


@dataclass(frozen=True)
class TokenWeights:
    """A = kernel x W: how much each Gaussian contributes to each token. Sparse rows (CSR).

    Attributes:
        h: Rows of the token grid.
        w: Columns of the token grid.
        count: Number of Gaussians N.
        row_offsets: ``[h * w + 1]`` int64.
        cols: ``[nnz]`` int32 Gaussians, ascending within a row.
        vals: ``[nnz]`` float32, > 0.
        threads: CPU threads, None for torch's setting.
    """

    h: int
    w: int
    count: int
    row_offsets: Tensor
    cols: Tensor
    vals: Tensor
    threads: int | None = None

    def __post_init__(self) -> None:
        check_dims(
            row_offsets=(self.row_offsets, str(self.h * self.w + 1)),
            cols=(self.cols, "nnz"),
            vals=(self.vals, "nnz"),
        )

    @property
    def nnz(self) -> int:
        """Stored entries."""
        return len(self.vals)

    @property
    def row_sums(self) -> Tensor:
        """``[h, w]`` coverage: the mean alpha under each token."""
        return self._forward(torch.ones(self.count, 1, device=self.vals.device))[..., 0]

    @property
    def _engine(self) -> Engine:
        return engine_for(self.vals.device, threads=self.threads)

    @property
    def _rows(self) -> Rows:
        return self.row_offsets, self.cols, self.vals

    def transposed(self) -> Rows:
        """``(offsets [N + 1], rows [nnz], vals [nnz])``: the same entries by Gaussian."""
        cached: Rows | None = self.__dict__.get("_transposed")
        if cached is None:
            cached = self._engine.csr_transpose(self._rows, self.count)
            self.__dict__["_transposed"] = cached  # computed once; the value never changes
        return cached

    def apply(self, features: Tensor) -> Tensor:
        """``[h, w, D]``: A times ``features [N, D]``. Differentiable in the features."""
        out: Tensor = _Linear.apply(features, self)  # type: ignore[no-untyped-call]
        return out

    def apply_t(self, maps: Tensor, out: Tensor | None = None) -> Tensor:
        """``[N, D]``: A transposed times ``maps [h, w, D]``.

        Args:
            maps: ``[h, w, D]`` float32.
            out: ``[N, D]`` contiguous float32 to which the product is added in place; summing
                over views this way touches only the Gaussians that the view sees.
        """
        dim = check_dims(maps=(maps, f"{self.h} {self.w} D"))["D"]
        if out is not None:
            check_dims(out=(out, f"{self.count} {dim}"))
        engine = self._engine
        flat = engine.checked("maps", maps).view(self.h * self.w, dim)
        return engine.csr_apply(self.transposed(), flat, out)

    def _forward(self, features: Tensor) -> Tensor:
        dim = check_dims(features=(features, f"{self.count} D"))["D"]
        engine = self._engine
        out = engine.csr_apply(self._rows, engine.checked("features", features))
        return out.view(self.h, self.w, dim)


def _check_grid(width: int, height: int, h: int, w: int, mode: PoolMode) -> None:
    if not (1 <= h <= height and 1 <= w <= width):
        raise ValueError(f"a grid of {h} x {w} for a picture of {height} x {width}")
    if mode == "box" and (height % h or width % w):
        raise ValueError(f"box pooling: {height} x {width} is no multiple of {h} x {w}")


@dataclass(frozen=True)
class ViewWeights:
    """W of one view of a frozen scene: pixels by Gaussians.

    Attributes:
        weights: The matrix as the kernels hold it.
        threads: CPU threads of what is pooled from it, None for torch's setting.
    """

    weights: Matrix
    threads: int | None = None

    @property
    def alphas(self) -> Tensor:
        """``[H, W]`` accumulated opacity, the row sums of W."""
        return 1 - self.weights.transmittance

    @property
    def nnz(self) -> int:
        """Stored lanes of W: an upper bound of its non-zeros."""
        return self.weights.nnz

    def apply(self, features: Tensor) -> Tensor:
        """``[H, W, D]``: W times ``features [N, D]``. Differentiable in the features."""
        out: Tensor = _Linear.apply(features, self)  # type: ignore[no-untyped-call]
        return out

    def apply_t(self, maps: Tensor) -> Tensor:
        """``[N, D]``: W transposed times ``maps [H, W, D]``."""
        return self.weights.apply_t(maps)

    def pool(self, h: int, w: int, mode: PoolMode = "tent") -> TokenWeights:
        """W pooled onto a token grid; the kernel of every token sums to one.

        Args:
            h: Rows of the grid; for ``box`` it divides the picture's height.
            w: Columns of the grid; for ``box`` it divides the picture's width.
            mode: ``box`` is the mean over the token's patch; ``tent`` the adjoint of bilinear
                upsampling with its rows normalised.

        Raises:
            ValueError: The grid does not fit the picture.
        """
        _check_grid(self.weights.width, self.weights.height, h, w, mode)
        rows = self.weights.pool(h, w, mode == "tent")
        return TokenWeights(h, w, self.weights.count, *rows, self.threads)

    def _forward(self, features: Tensor) -> Tensor:
        return self.weights.apply(features)


def view_weights(
    gaussians: Gaussians,
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
) -> ViewWeights:
    """W of one view, for geometry that does not change.

    Args:
        gaussians: N Gaussians, float32.
        viewmat: ``[4, 4]`` world to camera.
        K: ``[3, 3]`` intrinsics in pixels.
        width: Picture width in pixels.
        height: Picture height in pixels.
        near_plane: Nearest depth, world units.
        far_plane: Farthest depth, world units.
        eps2d: Blur of the 2D covariances, pixels squared.
        backend: ``auto`` (by the device of the Gaussians), ``cpu`` or ``cuda``.
        threads: CPU threads, None for torch's setting.
        math: Of products with W on CUDA, see ``rasterize``.
        deterministic: Of sums over pixels on CUDA, see ``rasterize``.

    Raises:
        ValueError: A camera or an option does not fit.
        TypeError: A tensor is not float32.
        DeviceError: A tensor is on another device than the backend, or CUDA cannot be used.
        EnvironmentFault: The device is out of memory.
    """
    g = gaussians
    engine = engine_for(
        g.means.device, backend, threads=threads, math=math, deterministic=deterministic
    )
    view = View(viewmat.cpu(), K.cpu(), width, height, near_plane, far_plane, eps2d)
    return ViewWeights(engine.weights(g.means, g.quats, g.scales, g.opacities, view), threads)


def view_token_weights(
    gaussians: Gaussians,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    h: int,
    w: int,
    mode: PoolMode = "box",
    *,
    near_plane: float = NEAR_PLANE,
    far_plane: float = FAR_PLANE,
    eps2d: float = EPS2D,
    threads: int | None = None,
) -> TokenWeights:
    """W of one view pooled onto a token grid: ``view_weights(...).pool(h, w, mode)``.

    On the CPU W is never stored, which is several times faster; sums differ in their order.

    Args:
        gaussians: N Gaussians, float32.
        viewmat: ``[4, 4]`` world to camera.
        K: ``[3, 3]`` intrinsics in pixels.
        width: Picture width in pixels.
        height: Picture height in pixels.
        h: Rows of the grid; for ``box`` it divides the picture's height.
        w: Columns of the grid; for ``box`` it divides the picture's width.
        mode: ``box`` or ``tent``, see ``ViewWeights.pool``.
        near_plane: Nearest depth, world units.
        far_plane: Farthest depth, world units.
        eps2d: Blur of the 2D covariances, pixels squared.
        threads: CPU threads, None for torch's setting.

    Raises:
        ValueError: The grid does not fit the picture.
    """
    _check_grid(width, height, h, w, mode)
    g, engine = gaussians, engine_for(gaussians.means.device, threads=threads)
    view = View(viewmat.cpu(), K.cpu(), width, height, near_plane, far_plane, eps2d)
    rows = engine.token_weights(g.means, g.quats, g.scales, g.opacities, view, h, w, mode == "tent")
    return TokenWeights(h, w, len(g), *rows, threads)
