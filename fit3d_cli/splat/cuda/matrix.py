"""The sparse matrix W of one view on CUDA: building it, its products and its adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat.cuda import rows
from fit3d_cli.splat.cuda.project import checked
from fit3d_cli.splat.cuda.session import Session, handed, session
from fit3d_cli.splat.engine import Rows

if TYPE_CHECKING:
    from fit3d_cli import _cuda as compiled

TILE = 16
LANES = 32  # pixels of a subtile
SPLAT = 16
MOMENTS = 8
CHUNK = 64  # channels whose per-pair sums are held at once


class Options(NamedTuple):
    """How products are computed.

    Attributes:
        tensor: Products in tf32 on the tensor cores, sums in float32.
        deterministic: Sum in a fixed order; otherwise the adjoint adds atomically.
    """

    tensor: bool = False
    deterministic: bool = True


@dataclass(frozen=True)
class CudaMatrix:
    """W of one view (layout: ``kernels/cuda/README.md``).

    Attributes:
        width: Picture width in pixels.
        height: Picture height in pixels.
        count: Number of Gaussians N.
        order: ``[V]`` int32 visible Gaussians, front to back.
        pair_offsets: ``[V + 1]`` int64 (Gaussian, tile) pairs of each visible Gaussian.
        splats: ``[N, 16]`` packed splats, set for the visible ones.
        blocks: ``[M, 32]`` the weights.
        transmittance: ``[H, W]`` what is left behind all Gaussians.
        pairs: Number of (Gaussian, tile) pairs.
        lists: The tile lists, as the kernels take them.
        entries: W itself, as the kernels take it.
        options: How products are computed.
    """

    width: int
    height: int
    count: int
    order: Tensor
    pair_offsets: Tensor
    splats: Tensor
    blocks: Tensor
    transmittance: Tensor
    pairs: int
    lists: compiled.Lists
    entries: compiled.Weights
    options: Options

    @property
    def nnz(self) -> int:
        """Stored lanes of W: an upper bound of its non-zeros."""
        return self.blocks.numel()

    def apply(self, values: Tensor) -> Tensor:
        """``[H, W, D]``: W times ``values [N, D]``."""
        dim = check_dims(values=(values, f"{self.count} D"))["D"]
        values = checked("values", values, self.splats.device)
        with session(values.device) as on:
            out = on.empty("the rendered maps", self.height, self.width, dim)
            if dim > 0:
                flat, tensor = out.view(-1, dim), self.options.tensor
                on.call("apply", self.lists, self.entries, values, flat, tensor)
        return out

    def apply_t(self, maps: Tensor) -> Tensor:
        """``[N, D]``: W transposed times ``maps [H, W, D]``."""
        dim = check_dims(maps=(maps, f"{self.height} {self.width} D"))["D"]
        flat = checked("maps", maps, self.splats.device).view(-1, dim)
        with session(flat.device) as on:
            out = on.zeros("the gathered maps", self.count, dim)
            if self.pairs == 0 or dim == 0:
                return out
            if self.options.deterministic:
                self._sum_in_order(on, flat, out)
            else:
                tensor = self.options.tensor
                on.call("apply_t_atomic", self.lists, self.entries, flat, out, tensor)
        return out

    def _sum_in_order(self, on: Session, flat: Tensor, out: Tensor) -> None:
        """One row per pair, then the rows of each Gaussian in their order."""
        dim = out.shape[1]
        backoff = Backoff("channels of a sum over pixels", min(dim, CHUNK), on.device)
        buffer = backoff.attempt(lambda n: on.empty("the sums of pairs", self.pairs * n))
        for first in range(0, dim, backoff.size):
            width = min(backoff.size, dim - first)
            sums = buffer[: self.pairs * width].view(self.pairs, width)
            tensor = self.options.tensor
            on.call("apply_t_rows", self.lists, self.entries, flat, first, sums, tensor)
            on.call("reduce_pairs", self.order, self.pair_offsets, sums, first, out)

    def pool(self, h: int, w: int, tent: bool) -> Rows:
        """W pooled onto a token grid."""
        with session(self.splats.device) as on:
            return rows.pool(on, self.lists, self.entries, self.pairs, h, w, tent)


def build(
    on: Session,
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    options: Options,
) -> CudaMatrix:
    """Sort, bin and blend: the matrix W of one view. The arguments are as on the CPU.

    Raises:
        EnvironmentFault: The view is too much for 32-bit offsets, or for the memory.
    """
    k, ints, longs = on.module, torch.int32, torch.int64
    count = check_dims(
        means2d=(means2d, "N 2"),
        conics=(conics, "N 3"),
        depths=(depths, "N"),
        radii=(radii, "N 2"),
        opacities=(opacities, "N"),
    )["N"]
    order = on.empty("sorting", count, dtype=ints)
    scratch = on.scratch(k.depth_order_bytes(count))
    visible = on.call("depth_order", depths, radii, scratch, order)
    order = order[:visible]
    splats = on.empty("splats", count, SPLAT)
    pair_offsets = on.empty("splats", visible + 1, dtype=longs)
    scratch = on.scratch(k.bin_count_bytes(visible))
    pairs = on.call(
        "bin_count", order, means2d, conics, opacities, width, height, splats, pair_offsets, scratch
    )
    _within(pairs, 2**28, "pairs of Gaussians and tiles")
    tiles = -(-width // TILE) * -(-height // TILE)
    tile_offsets = on.empty("tile lists", tiles + 1, dtype=ints)
    ids, numbers = (on.empty("tile lists", pairs, dtype=ints) for _ in range(2))
    on.call(
        "bin_fill", order, splats, pair_offsets, width, height, tile_offsets, ids, numbers,
        on.scratch(k.bin_fill_bytes(pairs)),
    )  # fmt: skip
    lists = k.Lists(*map(handed, (splats, tile_offsets, ids, numbers)), width, height)
    masks = on.empty("tile lists", pairs, dtype=torch.int16)
    offsets = on.empty("tile lists", pairs + 1, dtype=ints)
    scratch = on.scratch(k.weights_count_bytes(pairs))
    entries = on.call("weights_count", lists, masks, offsets, scratch)
    _within(entries, 2**31, "weights of Gaussians on subtiles")
    blocks = on.empty("the weights of one view", entries, LANES)
    transmittance = on.empty("the weights of one view", height, width)
    on.call("weights_fill", lists, masks, offsets, blocks, transmittance)
    return CudaMatrix(
        width=width,
        height=height,
        count=count,
        order=order,
        pair_offsets=pair_offsets,
        splats=splats,
        blocks=blocks,
        transmittance=transmittance,
        pairs=pairs,
        lists=lists,
        entries=k.Weights(*map(handed, (masks, offsets, blocks))),
        options=options,
    )


def _within(number: int, limit: int, what: str) -> None:
    if number >= limit:
        raise EnvironmentFault(
            f"{number} {what} in one view, at most {limit - 1} are possible",
            hint="use fewer Gaussians or smaller pictures",
        )


class Blend(torch.autograd.Function):
    """Blended values and alphas of projected Gaussians; only asked-for gradients are computed."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        depths: Tensor,
        radii: Tensor,
        opacities: Tensor,
        values: Tensor,
        width: int,
        height: int,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        device = means2d.device
        values = checked("values", values, device)
        with session(device) as on:
            matrix = build(
                on,
                checked("means2d", means2d, device),
                checked("conics", conics, device),
                checked("depths", depths, device),
                radii,
                checked("opacities", opacities, device),
                width,
                height,
                options,
            )
        ctx.save_for_backward(values)
        ctx.matrix = matrix
        return matrix.apply(values), 1 - matrix.transmittance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint."""
        (values,) = ctx.saved_tensors
        matrix: CudaMatrix = ctx.matrix
        v_out, v_alphas = (grad.contiguous() for grad in grads)
        wanted = ctx.needs_input_grad
        v_values = matrix.apply_t(v_out) if wanted[5] else None
        v_means2d = v_conics = v_opacities = None
        if wanted[0] or wanted[1] or wanted[4]:
            v_means2d, v_conics, v_opacities = _geometry(matrix, values, v_out, v_alphas)
        return v_means2d, v_conics, None, None, v_opacities, v_values, None, None, None


def _geometry(
    matrix: CudaMatrix, values: Tensor, v_out: Tensor, v_alphas: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the splats; what was culled gets zeros."""
    count, dim = values.shape
    with session(values.device) as on:
        gradients = (
            on.zeros("gradients", count, 2),
            on.zeros("gradients", count, 3),
            on.zeros("gradients", count),
        )
        if matrix.pairs > 0:
            moments = on.empty("the sums of pairs", matrix.pairs, MOMENTS)
            on.call(
                "blend_moments", matrix.lists, matrix.entries, values, v_out.view(-1, dim),
                v_alphas, matrix.transmittance, moments,
            )  # fmt: skip
            on.call(
                "reduce_moments", matrix.order, matrix.pair_offsets, moments, matrix.splats,
                *gradients,
            )  # fmt: skip
    return gradients
