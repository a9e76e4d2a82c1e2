"""The torch rivals as rasterisers: a picture, and its gradient by autograd.

Both work batch by batch, so that memory is bounded by a batch and not by the picture: the forward
pass keeps no graph, and a step takes each batch forward and backward at once (the upstream
gradient is known in advance, which favours the rivals).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from benchmarks.rivals import lists, pairs, tiles
from benchmarks.rivals.lists import Inputs
from fit3d_cli.splat.view import View

Blend = Callable[[Tensor, Tensor, lists.Batch, int], Tensor]
RIVALS = MappingProxyType({"pairs": pairs.blend, "tiles": tiles.blend})


@torch.no_grad()
def forward(inputs: Inputs, view: View, blend: Blend, flat: lists.Flat | None = None) -> Tensor:
    """``[H, W, D]``: the picture.

    Args:
        inputs: N Gaussians.
        view: The camera.
        blend: One of ``RIVALS``.
        flat: Projected Gaussians to use in place of gsplat's projection (to compare pictures).
    """
    flat = lists.project(inputs, view) if flat is None else flat
    found = lists.bin_tiles(flat, view.width, view.height)
    across, down = -(-view.width // lists.TILE), -(-view.height // lists.TILE)
    blocks = torch.zeros(across * down, lists.TILE**2, inputs.values.shape[1])
    for batch in found.batches:
        ids = found.ids[batch.first : batch.last]
        blocks[batch.tiles] = blend(flat.geometry[ids], inputs.values[ids], batch, across)
    return lists.untile(blocks, view.width, view.height)


def step(
    inputs: Inputs, view: View, upstream: Tensor, blend: Blend, *, geometry: bool
) -> tuple[Tensor | None, ...]:
    """Forward and backward: gradients of ``(picture * upstream).sum()``.

    Args:
        inputs: N Gaussians.
        view: The camera.
        upstream: ``[H, W, D]``.
        blend: One of ``RIVALS``.
        geometry: Whether gradients of means, quats, scales and opacities are wanted as well.

    Returns:
        One gradient per field of ``Inputs``, None for the geometry if it was not asked for.
    """
    leaves = Inputs(*(t.detach().requires_grad_(geometry) for t in inputs[:4]), inputs.values)
    leaves = leaves._replace(values=inputs.values.detach().requires_grad_())
    flat = lists.project(leaves, view)
    found = lists.bin_tiles(flat, view.width, view.height)
    across, down = -(-view.width // lists.TILE), -(-view.height // lists.TILE)
    blocks = torch.zeros(across * down, lists.TILE**2, inputs.values.shape[1])
    wanted = lists.tiled(upstream)
    shapes = flat.geometry.index_select(0, found.ids)
    values = leaves.values.index_select(0, found.ids)
    v_shapes, v_values = torch.zeros_like(shapes), torch.zeros_like(values)
    for batch in found.batches:
        part = slice(batch.first, batch.last)
        own = shapes.detach()[part].requires_grad_(geometry)
        held = values.detach()[part].requires_grad_()
        block = blend(own, held, batch, across)
        blocks[batch.tiles] = block.detach()
        block.backward(wanted[batch.tiles])
        v_values[part] = held.grad
        if geometry:
            v_shapes[part] = own.grad
    lists.untile(blocks, view.width, view.height)
    if geometry:
        torch.autograd.backward([shapes, values], [v_shapes, v_values])
    else:
        values.backward(v_values)
    return tuple(leaf.grad for leaf in leaves)
