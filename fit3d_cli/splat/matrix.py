"""The sparse matrix W of one view: building it, its products and its adjoint."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat import kernel

if TYPE_CHECKING:
    from fit3d_cli import _kernels as compiled

TILE = 16
GROUPS_PER_TILE = 32
LANES = 8
SPLAT = 16
FUSED_CHANNELS = 10  # up to here the blend's adjoint yields the values' gradient as well
CHUNK = 64  # channels whose per-pair sums are held at once


class _Spare:
    """The storage of the last matrix that died, for the next one.

    A fitting step makes and drops tens of megabytes; getting them from the system anew each
    time costs more in page faults than the arithmetic does.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def take(self, entries: int) -> tuple[Tensor, Tensor]:
        """``slots [M]`` and ``weights [M, 8]`` with M >= entries, contents arbitrary."""
        if self._kept:
            slots, weights = self._kept.pop()
            if entries <= len(slots) <= 4 * entries:
                return slots, weights
        room = entries + entries // 4  # views of one scene differ little
        return torch.empty(room, dtype=torch.int32), torch.empty(room, LANES)

    def give(self, storage: tuple[Tensor, Tensor]) -> None:
        """Keep one storage, not more."""
        self._kept[:] = [storage]


_spare = _Spare()


@dataclass(frozen=True)
class Weights:
    """The sparse matrix W of one view (layout: ``kernels/README.md``).

    Attributes:
        width: Picture width in pixels.
        height: Picture height in pixels.
        count: Number of Gaussians N.
        order: ``[V]`` int32 visible Gaussians, front to back.
        pair_offsets: ``[V + 1]`` int64 (Gaussian, tile) pairs of each visible Gaussian.
        longest: Length of the longest tile list.
        splats: ``[N, 16]`` packed splats, set for the visible ones.
        group_counts: ``[groups]`` int32 entries of each group of 4 x 2 pixels.
        transmittance: ``[H, W]`` what is left behind all Gaussians.
        lists: The tile lists, as the kernels take them.
        entries: W itself, as the kernels take it.
    """

    width: int
    height: int
    count: int
    order: Tensor
    pair_offsets: Tensor
    longest: int
    splats: Tensor
    group_counts: Tensor
    transmittance: Tensor
    lists: compiled.Lists
    entries: compiled.Weights

    @property
    def pairs(self) -> int:
        """Number of (Gaussian, tile) pairs."""
        return int(self.pair_offsets[-1])

    def scratch(self, threads: int) -> Tensor:
        """``[threads, longest * 8]`` memory for one tile's rows per thread."""
        return torch.empty(threads, max(self.longest, 1) * LANES)


def build_weights(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    threads: int,
) -> Weights:
    """Sort, bin and blend: the matrix W of one view.

    Args:
        means2d: ``[N, 2]``.
        conics: ``[N, 3]``.
        depths: ``[N]``.
        radii: ``[N, 2]`` int32; 0 leaves a Gaussian out.
        opacities: ``[N]``.
        width: Picture width in pixels.
        height: Picture height in pixels.
        threads: CPU threads.

    Raises:
        EnvironmentFault: The view has more than 2^31 (Gaussian, tile) pairs.
    """
    k = kernel.load()
    count = check_dims(
        means2d=(means2d, "N 2"),
        conics=(conics, "N 3"),
        depths=(depths, "N"),
        radii=(radii, "N 2"),
        opacities=(opacities, "N"),
    )["N"]
    ints, longs = torch.int32, torch.int64
    order = torch.empty(count, dtype=ints)
    visible = k.depth_order(
        depths,
        radii,
        torch.empty(4, count, dtype=ints),
        order,
    )
    order = order[:visible]
    splats = torch.empty(count, SPLAT)
    pair_offsets = torch.empty(visible + 1, dtype=longs)
    pairs = k.bin_count(
        order,
        means2d,
        conics,
        opacities,
        width,
        height,
        splats,
        pair_offsets,
        threads,
    )
    if pairs >= 2**31:
        raise EnvironmentFault(
            f"{pairs} pairs of Gaussians and tiles in one view are too many",
            hint="use fewer Gaussians or smaller pictures",
        )
    tiles = -(-width // TILE) * -(-height // TILE)
    tile_offsets = torch.empty(tiles + 1, dtype=longs)
    tile_ids, tile_pairs = torch.empty(pairs, dtype=ints), torch.empty(pairs, dtype=ints)
    masks = torch.empty(pairs, dtype=ints)  # first the pairs' tiles, then the groups they touch
    k.bin_fill(
        order,
        splats,
        pair_offsets,
        width,
        height,
        masks,
        tile_offsets,
        tile_ids,
        tile_pairs,
        threads,
    )
    lists = k.Lists(
        splats,
        tile_offsets,
        tile_ids,
        tile_pairs,
        width,
        height,
    )
    entry_offsets = torch.zeros(tiles + 1, dtype=longs)
    k.weights_count(lists, masks, entry_offsets[1:], threads)
    entry_offsets.cumsum_(0)
    storage = _spare.take(int(entry_offsets[-1]))  # an upper bound
    slots, weights = storage
    group_offsets = torch.empty(tiles * GROUPS_PER_TILE, dtype=longs)
    group_counts = torch.empty(tiles * GROUPS_PER_TILE, dtype=ints)
    transmittance = torch.empty(height, width)
    k.weights_fill(
        lists,
        masks,
        entry_offsets,
        group_offsets,
        group_counts,
        slots,
        weights,
        transmittance,
        threads,
    )
    built = Weights(
        width=width,
        height=height,
        count=count,
        order=order,
        pair_offsets=pair_offsets,
        longest=int((tile_offsets[1:] - tile_offsets[:-1]).max()),
        splats=splats,
        group_counts=group_counts,
        transmittance=transmittance,
        lists=lists,
        entries=k.Weights(group_offsets, group_counts, slots, weights),
    )
    weakref.finalize(built, _spare.give, storage)
    return built


def apply(weights: Weights, values: Tensor, threads: int) -> Tensor:
    """``[H, W, D]``: W times ``values [N, D]``."""
    dim = check_dims(values=(values, f"{weights.count} D"))["D"]
    out = torch.empty(weights.height, weights.width, dim)
    kernel.load().apply(
        weights.lists,
        weights.entries,
        values,
        out.view(-1, dim),
        weights.scratch(threads),
        threads,
    )
    return out


def apply_t(weights: Weights, maps: Tensor, threads: int) -> Tensor:
    """``[N, D]``: W transposed times ``maps [H, W, D]``."""
    dim = check_dims(maps=(maps, f"{weights.height} {weights.width} D"))["D"]
    out = torch.zeros(weights.count, dim)
    partials = torch.empty(weights.pairs, min(dim, CHUNK))
    kernel.load().apply_t(
        weights.lists,
        weights.entries,
        weights.order,
        weights.pair_offsets,
        maps.view(-1, dim),
        partials,
        out,
        weights.scratch(threads),
        threads,
    )
    return out


class Blend(torch.autograd.Function):
    """Blended values and alphas of projected Gaussians, with every gradient."""

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
        threads: int,
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        values = kernel.checked("values", values)
        weights = build_weights(
            kernel.checked("means2d", means2d),
            kernel.checked("conics", conics),
            kernel.checked("depths", depths),
            radii,
            kernel.checked("opacities", opacities),
            width,
            height,
            threads,
        )
        ctx.save_for_backward(values)
        ctx.weights, ctx.threads = weights, threads
        return apply(weights, values, threads), 1 - weights.transmittance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The adjoint."""
        (values,) = ctx.saved_tensors
        weights: Weights = ctx.weights
        v_out, v_alphas = (grad.contiguous() for grad in grads)
        count, dim = values.shape
        fused = dim <= FUSED_CHANNELS
        v_means2d, v_conics = torch.zeros(count, 2), torch.zeros(count, 3)
        v_opacities = torch.zeros(count)
        v_values = torch.zeros(count, dim) if fused else apply_t(weights, v_out, ctx.threads)
        kernel.load().blend_backward(
            weights.lists,
            weights.entries,
            weights.order,
            weights.pair_offsets,
            values,
            v_out.view(-1, dim),
            v_alphas,
            weights.transmittance,
            torch.empty(weights.pairs, 16 if fused else 8),
            torch.empty(ctx.threads, 32 * weights.longest + LANES * dim),
            v_means2d,
            v_conics,
            v_opacities,
            v_values if fused else None,
            ctx.threads,
        )
        return v_means2d, v_conics, None, None, v_opacities, v_values, None, None, None
