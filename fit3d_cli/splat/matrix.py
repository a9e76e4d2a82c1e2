"""The sparse matrix W of one view: building it, its products and its adjoint."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat import kernel
from fit3d_cli.splat.memory import Spare, empty

if TYPE_CHECKING:
    from fit3d_cli import _kernels as compiled

TILE = 16
GROUPS_PER_TILE = 32
LANES = 8
SPLAT = 16
FUSED_CHANNELS = 10  # up to here the blend's adjoint yields the values' gradient as well
CHUNK = 40  # channels whose per-pair sums are held at once
ROW = 24  # channels of a tile's rows that are held at once


spare = Spare()


@dataclass(frozen=True)
class Weights:
    """The sparse matrix W of one view (layout: ``kernels/README.md``).

    Attributes:
        width: Picture width in pixels.
        height: Picture height in pixels.
        count: Number of Gaussians N.
        order: ``[V]`` int32 visible Gaussians, front to back.
        pair_offsets: ``[V + 1]`` int64 (Gaussian, tile) pairs of each visible Gaussian.
        pair_used: ``[E]`` uint8, whether some pixel of the pair's tile uses its Gaussian.
        longest: Length of the longest tile list, hidden Gaussians left out.
        splats: ``[>= N, 16]`` packed splats, set for the visible ones.
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
    pair_used: Tensor
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
        """``[threads, longest * 24]`` memory for one tile's rows per thread."""
        return torch.empty(threads, max(self.longest, 1) * ROW)


@dataclass(frozen=True)
class Binned:
    """The Gaussians of one view, ordered by depth and sorted into tiles.

    Attributes:
        order: ``[V]`` int32 visible Gaussians, front to back.
        pair_offsets: ``[V + 1]`` int64.
        tiles: Number of tiles.
        longest: Length of the longest tile list.
        lists: The tile lists, as the kernels take them.
        masks: ``[E]`` int32 which groups of its tile a list item may touch.
        tile_counts: ``[tiles]`` int32 lengths of the lists.
        entry_offsets: ``[tiles + 1]`` int64 bounds of each tile's entries of W.
        storage: Arrays to give back.
    """

    order: Tensor
    pair_offsets: Tensor
    tiles: int
    longest: int
    lists: compiled.Lists
    masks: Tensor
    tile_counts: Tensor
    entry_offsets: Tensor
    storage: dict[str, Tensor]

    @property
    def pairs(self) -> int:
        """Number of (Gaussian, tile) pairs."""
        return int(self.pair_offsets[-1])


def bin_view(
    means2d: Tensor,
    conics: Tensor,
    depths: Tensor,
    radii: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    threads: int,
) -> Binned:
    """Sort by depth and by tile; arguments and errors as ``build_weights``."""
    k = kernel.load()
    count = check_dims(
        means2d=(means2d, "N 2"),
        conics=(conics, "N 3"),
        depths=(depths, "N"),
        radii=(radii, "N 2"),
        opacities=(opacities, "N"),
    )["N"]
    ints, longs = torch.int32, torch.int64
    storage = {"sort": spare.take("sort", 4 * count, dtype=ints)}
    order = storage["order"] = spare.take("order", count, dtype=ints)
    visible = k.depth_order(depths, radii, storage["sort"], order)
    order = order[:visible]
    storage["splats"] = spare.take("splats", count, SPLAT)
    splats = storage["splats"][:count]
    pair_offsets = torch.empty(visible + 1, dtype=longs)
    pairs = k.bin_count(
        order, means2d, conics, opacities, width, height, splats, pair_offsets, threads
    )
    if pairs >= 2**31:
        raise EnvironmentFault(
            f"{pairs} pairs of Gaussians and tiles in one view are too many",
            hint="use fewer Gaussians or smaller pictures",
        )
    tiles = -(-width // TILE) * -(-height // TILE)
    for name in ("tile_ids", "tile_pairs", "masks", "pair_tiles", "pair_masks"):
        storage[name] = spare.take(name, pairs, dtype=ints)
    masks = storage["masks"]  # the groups that a pair may touch
    tile_offsets = torch.empty(tiles + 1, dtype=longs)
    tile_counts = torch.empty(tiles, dtype=ints)
    lists = k.Lists(
        splats, tile_offsets, tile_counts, storage["tile_ids"], storage["tile_pairs"],
        width, height,
    )  # fmt: skip
    entry_offsets = torch.empty(tiles + 1, dtype=longs)
    k.bin_fill(
        order,
        pair_offsets,
        lists,
        storage["pair_tiles"],
        storage["pair_masks"],
        torch.empty(k.BIN_PARTS * tiles, dtype=ints),
        tile_offsets,
        masks,
        entry_offsets,
        threads,
    )
    longest = int(tile_counts.max())
    return Binned(
        order, pair_offsets, tiles, longest, lists, masks, tile_counts, entry_offsets, storage
    )


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
    binned = bin_view(means2d, conics, depths, radii, opacities, width, height, threads)
    storage, tiles, longs = binned.storage, binned.tiles, torch.int64
    bound = int(binned.entry_offsets[-1])
    slots = storage["slots"] = spare.take("slots", bound, dtype=torch.int32)
    entries = storage["weights"] = spare.take("weights", bound, LANES)
    pair_used = storage["pair_used"] = spare.take("pair_used", binned.pairs, dtype=torch.uint8)
    group_offsets = torch.empty(tiles * GROUPS_PER_TILE, dtype=longs)
    group_counts = torch.empty(tiles * GROUPS_PER_TILE, dtype=torch.int32)
    transmittance = torch.empty(height, width)
    k.weights_fill(
        binned.lists,
        binned.masks,
        binned.entry_offsets,
        pair_used,
        group_offsets,
        group_counts,
        slots,
        entries,
        transmittance,
        torch.empty(threads, 10 * binned.longest + 32),
        threads,
    )
    built = Weights(
        width=width,
        height=height,
        count=len(depths),
        order=binned.order,
        pair_offsets=binned.pair_offsets,
        pair_used=pair_used,
        longest=int(binned.tile_counts.max()),
        splats=storage["splats"],
        group_counts=group_counts,
        transmittance=transmittance,
        lists=binned.lists,
        entries=k.Weights(group_offsets, group_counts, slots, entries),
    )
    weakref.finalize(built, spare.give, storage)
    return built


def apply(weights: Weights, values: Tensor, threads: int) -> Tensor:
    """``[H, W, D]``: W times ``values [N, D]``."""
    dim = check_dims(values=(values, f"{weights.count} D"))["D"]
    out = spare.lend("maps", weights.height, weights.width, dim)
    kernel.load().apply(
        weights.lists,
        weights.entries,
        values,
        out.view(-1, dim),
        weights.scratch(threads),
        threads,
    )
    return out


def apply_t(weights: Weights, maps: Tensor, threads: int, *, deterministic: bool = True) -> Tensor:
    """``[N, D]``: W transposed times ``maps [H, W, D]``.

    Args:
        weights: W.
        maps: ``[H, W, D]`` float32.
        threads: CPU threads.
        deterministic: Sum over tiles in a fixed order, by way of ``[pairs, 40]`` partial sums.
            Otherwise threads add their tiles to the result as they come, which needs no partial
            sums; the last bits then vary from run to run. For comparisons only.

    Raises:
        EnvironmentFault: There is not enough memory.
    """
    dim = check_dims(maps=(maps, f"{weights.height} {weights.width} D"))["D"]
    out = spare.lend("values", weights.count, dim)
    flat, scratch, k = maps.view(-1, dim), weights.scratch(threads), kernel.load()
    if not deterministic:
        k.apply_t_unordered(weights.lists, weights.entries, flat, out, scratch, threads)
        return out
    backoff = Backoff("channels of a sum over pixels", min(dim, CHUNK))
    partials = backoff.attempt(lambda n: spare.take("partials", weights.pairs * n))
    k.apply_t(
        weights.lists,
        weights.entries,
        weights.order,
        weights.pair_offsets,
        weights.pair_used,
        flat,
        partials,
        backoff.size,
        out,
        scratch,
        threads,
    )
    spare.give({"partials": partials})
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
            weights.pair_used,
            values,
            v_out.view(-1, dim),
            v_alphas,
            weights.transmittance,
            empty(weights.pairs, 16 if fused else 8),
            torch.empty(ctx.threads, 32 * weights.longest + LANES * dim),
            v_means2d,
            v_conics,
            v_opacities,
            v_values if fused else None,
            ctx.threads,
        )
        return v_means2d, v_conics, None, None, v_opacities, v_values, None, None, None
