"""Checked calls of the compiled kernels: shapes, types and memory live here, arithmetic there.

Every kernel writes into memory that these functions allocate, and gives the same bits for any
number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fit3d_cli.errors import DeviceError, EnvironmentFault
from fit3d_cli.shapes import check_dims
from fit3d_cli.splat.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fit3d_cli import _kernels as compiled

TILE = 16
GROUPS_PER_TILE = 32
LANES = 8
FUSED_CHANNELS = 10  # up to here the blend's adjoint yields the values' gradient as well
CHUNK = 64  # channels whose per-pair sums are held at once


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


def _np(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()  # shares memory
    return array


def _camera(view: View) -> compiled.Camera:
    single = view.to(torch.float32)
    camera: compiled.Camera = load().Camera(
        _np(single.viewmat), _np(single.K), view.width, view.height,
        view.near_plane, min(view.far_plane, 3e38), view.eps2d,
    )  # fmt: skip
    return camera


def project_forward(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, view: View, threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(means2d [N,2], conics [N,3], depths [N], radii [N,2])``, see ``reference.project``."""
    count = len(means)
    means2d, conics = torch.empty(count, 2), torch.empty(count, 3)
    depths, radii = torch.empty(count), torch.empty(count, 2, dtype=torch.int32)
    load().project_forward(
        _np(means), _np(quats), _np(scales), _np(opacities), _camera(view),
        _np(means2d), _np(conics), _np(depths), _np(radii), threads,
    )  # fmt: skip
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
        means, quats, scales, opacities, radii = ctx.saved_tensors
        v_means2d, v_conics, v_depths = (grad.contiguous() for grad in grads[:3])
        v_means, v_quats, v_scales = (torch.empty_like(t) for t in (means, quats, scales))
        load().project_backward(
            _np(means), _np(quats), _np(scales), _np(opacities), _camera(ctx.view), _np(radii),
            _np(v_means2d), _np(v_conics), _np(v_depths),
            _np(v_means), _np(v_quats), _np(v_scales), ctx.threads,
        )  # fmt: skip
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
        sh, means = checked("sh", sh), checked("means", means)
        center = center.to(torch.float32)
        colors = torch.empty(len(means), 3)
        load().harmonics_forward(
            _np(means), _np(center), _np(sh), _np(radii), degree, _np(colors), threads
        )
        ctx.save_for_backward(means, radii, center)
        ctx.bases, ctx.degree, ctx.threads = sh.shape[1], degree, threads
        return colors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, radii, center = ctx.saved_tensors
        v_sh = torch.empty(len(means), ctx.bases, 3)
        load().harmonics_backward(
            _np(means), _np(center), _np(radii), ctx.degree, _np(grads[0].contiguous()),
            _np(v_sh), ctx.threads,
        )  # fmt: skip
        return v_sh, None, None, None, None, None


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
        splats: ``[N, 8]`` packed splats, set for the visible ones.
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
    k = load()
    count = check_dims(means2d=(means2d, "N 2"), conics=(conics, "N 3"), depths=(depths, "N"),
                       radii=(radii, "N 2"), opacities=(opacities, "N"))["N"]  # fmt: skip
    ints, longs = torch.int32, torch.int64
    order = torch.empty(count, dtype=ints)
    visible = k.depth_order(
        _np(depths), _np(radii), _np(torch.empty(4, count, dtype=ints)), _np(order)
    )
    order = order[:visible]
    splats = torch.empty(count, LANES)
    pair_offsets = torch.empty(visible + 1, dtype=longs)
    pairs = k.bin_count(
        _np(order), _np(means2d), _np(conics), _np(opacities), width, height,
        _np(splats), _np(pair_offsets), threads,
    )  # fmt: skip
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
        _np(order), _np(splats), _np(pair_offsets), width, height, _np(masks),
        _np(tile_offsets), _np(tile_ids), _np(tile_pairs), threads,
    )  # fmt: skip
    lists = k.Lists(_np(splats), _np(tile_offsets), _np(tile_ids), _np(tile_pairs), width, height)
    group_offsets = torch.zeros(tiles * GROUPS_PER_TILE + 1, dtype=longs)
    k.weights_count(lists, _np(masks), _np(group_offsets[1:]), threads)
    group_offsets.cumsum_(0)
    entries = int(group_offsets[-1])  # an upper bound; pages that stay untouched cost nothing
    group_counts = torch.empty(tiles * GROUPS_PER_TILE, dtype=ints)
    slots, weights = torch.empty(entries, dtype=ints), torch.empty(entries, LANES)
    transmittance = torch.empty(height, width)
    k.weights_fill(
        lists, _np(masks), _np(group_offsets), _np(group_counts), _np(slots), _np(weights),
        _np(transmittance), threads,
    )  # fmt: skip
    return Weights(
        width=width, height=height, count=count, order=order, pair_offsets=pair_offsets,
        longest=int((tile_offsets[1:] - tile_offsets[:-1]).max()), splats=splats,
        group_counts=group_counts, transmittance=transmittance, lists=lists,
        entries=k.Weights(_np(group_offsets), _np(group_counts), _np(slots), _np(weights)),
    )  # fmt: skip


def apply(weights: Weights, values: Tensor, threads: int) -> Tensor:
    """``[H, W, D]``: W times ``values [N, D]``."""
    dim = check_dims(values=(values, f"{weights.count} D"))["D"]
    out = torch.empty(weights.height, weights.width, dim)
    load().apply(
        weights.lists, weights.entries, _np(values), _np(out.view(-1, dim)),
        _np(weights.scratch(threads)), threads,
    )  # fmt: skip
    return out


def apply_t(weights: Weights, maps: Tensor, threads: int) -> Tensor:
    """``[N, D]``: W transposed times ``maps [H, W, D]``."""
    dim = check_dims(maps=(maps, f"{weights.height} {weights.width} D"))["D"]
    out = torch.zeros(weights.count, dim)
    partials = torch.empty(weights.pairs, min(dim, CHUNK))
    load().apply_t(
        weights.lists, weights.entries, _np(weights.order), _np(weights.pair_offsets),
        _np(maps.view(-1, dim)), _np(partials), _np(out), _np(weights.scratch(threads)), threads,
    )  # fmt: skip
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
        values = checked("values", values)
        weights = build_weights(
            checked("means2d", means2d), checked("conics", conics), checked("depths", depths),
            radii, checked("opacities", opacities), width, height, threads,
        )  # fmt: skip
        ctx.save_for_backward(values)
        ctx.weights, ctx.threads = weights, threads
        return apply(weights, values, threads), 1 - weights.transmittance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        weights: Weights = ctx.weights
        v_out, v_alphas = (grad.contiguous() for grad in grads)
        count, dim = values.shape
        fused = dim <= FUSED_CHANNELS
        v_means2d, v_conics = torch.zeros(count, 2), torch.zeros(count, 3)
        v_opacities = torch.zeros(count)
        v_values = torch.zeros(count, dim) if fused else apply_t(weights, v_out, ctx.threads)
        load().blend_backward(
            weights.lists, weights.entries, _np(weights.order), _np(weights.pair_offsets),
            _np(values), _np(v_out.view(-1, dim)), _np(v_alphas), _np(weights.transmittance),
            _np(torch.empty(weights.pairs, 16 if fused else 8)),
            _np(torch.empty(ctx.threads, max(dim, 1) * LANES)),
            _np(v_means2d), _np(v_conics), _np(v_opacities),
            _np(v_values) if fused else None, ctx.threads,
        )  # fmt: skip
        return v_means2d, v_conics, None, None, v_opacities, v_values, None, None, None


def pool(
    weights: Weights, h: int, w: int, tent: bool, threads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``(row_offsets [h w + 1], cols [nnz], vals [nnz])`` of W pooled onto a token grid."""
    k = load()
    stamps = torch.full((threads, weights.count), -1, dtype=torch.int32)
    offsets = torch.zeros(h * w + 1, dtype=torch.int64)
    k.pool_count(weights.lists, weights.entries, h, w, tent, _np(stamps), _np(offsets[1:]), threads)
    offsets.cumsum_(0)
    nnz = int(offsets[-1])
    cols, vals = torch.empty(nnz, dtype=torch.int32), torch.empty(nnz)
    k.pool_fill(
        weights.lists, weights.entries, h, w, tent, _np(stamps),
        _np(torch.empty(threads, weights.count)), _np(offsets), _np(cols), _np(vals), threads,
    )  # fmt: skip
    return offsets, cols, vals


def csr_apply(offsets: Tensor, cols: Tensor, vals: Tensor, x: Tensor, threads: int) -> Tensor:
    """``[rows, D]``: the sparse matrix times ``x [columns, D]``."""
    out = torch.empty(len(offsets) - 1, x.shape[1])
    load().csr_apply(_np(offsets), _np(cols), _np(vals), _np(x), _np(out), threads)
    return out


def csr_transpose(
    offsets: Tensor, cols: Tensor, vals: Tensor, t_offsets: Tensor, t_rows: Tensor, t_vals: Tensor
) -> None:
    """Write the transposed matrix; within a column the rows stay ascending."""
    load().csr_transpose(
        _np(offsets), _np(cols), _np(vals), _np(t_offsets), _np(t_rows), _np(t_vals)
    )
