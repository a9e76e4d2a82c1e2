"""W of a frozen view, its adjoint and its pooled form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.splat import reference
from fit3d_cli.splat.kernel import project_forward
from fit3d_cli.splat.matrix import apply_t, build_weights
from fit3d_cli.splat.memory import Spare, empty
from fit3d_cli.splat.rasterize import rasterize, view_weights
from fit3d_cli.splat.view import View
from fit3d_cli.splat.weights import view_token_weights


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _projected(scene: Any) -> tuple[torch.Tensor, ...]:
    g = scene.gaussians
    return project_forward(g.means, g.quats, g.scales, g.opacities, View(*scene.camera), 1)


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("dim", [1, 3, 64, 65, 384])
def test_apply_t_is_the_adjoint(scene_factory: Callable, isa: str, dim: int) -> None:
    scene = scene_factory(count=200)
    weights = view_weights(scene.gaussians, *scene.camera)
    f, g = _random(200, dim), _random(scene.height, scene.width, dim, seed=1)
    left = (weights.apply(f).double() * g).sum()
    right = (f * weights.apply_t(g).double()).sum()
    scale = (weights.apply(f.abs()).double() * g.abs()).sum()
    assert abs(left - right) <= 1e-6 * scale  # the same products, in two float32 orders
    tokens = weights.pool(5, 6, "tent")
    g = _random(5, 6, dim, seed=2)
    left = (tokens.apply(f).double() * g).sum()
    right = (f * tokens.apply_t(g).double()).sum()
    scale = (tokens.apply(f.abs()).double() * g.abs()).sum()
    assert abs(left - right) <= 1e-6 * scale


@pytest.mark.parametrize("dim", [3, 40])
def test_apply_t_in_any_order(scene_factory: Callable, isa: str, dim: int) -> None:
    scene = scene_factory(count=200)
    weights = build_weights(*_projected(scene), scene.gaussians.opacities, 37, 29, 2)
    maps = _random(29, 37, dim)
    expected = apply_t(weights, maps, 2)
    found = apply_t(weights, maps, 3, deterministic=False)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()) + 1e-6
    )


def test_apply_equals_rasterize(scene_factory: Callable) -> None:
    scene = scene_factory()
    f = _random(60, 20)
    weights = view_weights(scene.gaussians, *scene.camera)
    rendering = rasterize(*scene.geometry(), f, *scene.camera)
    assert torch.equal(weights.apply(f), rendering.values)
    assert torch.equal(weights.alphas, rendering.alphas)


def test_weights_and_what_is_left_sum_to_one(scene_factory: Callable, isa: str) -> None:
    scene = scene_factory(count=300)
    weights = view_weights(scene.gaussians, *scene.camera)
    total = weights.apply(torch.ones(300, 1))[..., 0] + weights.weights.transmittance
    # T is a product, the weights a sum: float32 rounding of up to a hundred terms.
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=3e-6)
    assert 0 < weights.nnz <= 300 * scene.width * scene.height * 8


def test_apply_t_equals_reference(scene_factory: Callable) -> None:
    scene = scene_factory()
    weights = view_weights(scene.gaussians, *scene.camera)
    doubles = [t.double() for t in scene.geometry()]
    projected = reference.project(*doubles, View(*scene.camera))
    dense = reference.blend_weights(projected, doubles[3], scene.width, scene.height)
    # Pixels at a threshold may go either way in float32.
    safe = (dense.kink > 1e-3).reshape(scene.height, scene.width, 1)
    g = _random(scene.height, scene.width, 7) * safe
    expected = dense.weights.T @ g.reshape(-1, 7).double()
    assert _relative(weights.apply_t(g), expected) < 1e-5  # float32 sums over a footprint


def test_features_are_differentiable(scene_factory: Callable) -> None:
    scene = scene_factory()
    weights = view_weights(scene.gaussians, *scene.camera)
    f = _random(60, 6).requires_grad_()
    g = _random(scene.height, scene.width, 6, seed=1)
    (grad,) = torch.autograd.grad((weights.apply(f) * g).sum(), f)
    assert torch.equal(grad, weights.apply_t(g))
    tokens = weights.pool(3, 4)
    g = _random(3, 4, 6, seed=2)
    (grad,) = torch.autograd.grad((tokens.apply(f) * g).sum(), f)
    assert torch.equal(grad, tokens.apply_t(g))


@pytest.mark.parametrize(
    ("mode", "grid"), [("box", (4, 6)), ("tent", (4, 6)), ("tent", (5, 7)), ("box", (1, 1))]
)
def test_pool_equals_pooled_maps(scene_factory: Callable, mode: str, grid: tuple[int, int]) -> None:
    """kernel (W f) = (kernel W) f."""
    scene = scene_factory(count=150, width=84, height=56)
    h, w = grid
    weights = view_weights(scene.gaussians, *scene.camera)
    tokens = weights.pool(h, w, mode)
    f = _random(150, 9)
    rows = reference.axis_kernel(h, 56, mode, torch.float32)
    cols = reference.axis_kernel(w, 84, mode, torch.float32)
    expected = torch.einsum("ty,sx,yxd->tsd", rows, cols, weights.apply(f))
    assert _relative(tokens.apply(f), expected) < 1e-5  # float32 sums over a patch
    coverage = torch.einsum("ty,sx,yx->ts", rows, cols, weights.alphas)
    torch.testing.assert_close(tokens.row_sums, coverage, rtol=0, atol=1e-5)
    for row in range(h * w):
        columns = tokens.cols[tokens.row_offsets[row] : tokens.row_offsets[row + 1]]
        assert (columns[1:] > columns[:-1]).all()
    assert tokens.nnz == len(tokens.cols) == len(tokens.vals) and (tokens.vals > 0).all()


@pytest.mark.parametrize(
    ("mode", "grid"),
    [("box", (4, 6)), ("box", (8, 12)), ("tent", (5, 7)), ("box", (1, 1)), ("tent", (56, 84))],
)
def test_pooled_without_the_matrix(
    scene_factory: Callable, isa: str, mode: str, grid: tuple[int, int]
) -> None:
    """The last grid has too many tokens per tile, so that W is built after all."""
    scene = scene_factory(count=150, width=84, height=56)
    expected = view_weights(scene.gaussians, *scene.camera).pool(*grid, mode)
    for threads in (1, 3):
        direct = view_token_weights(scene.gaussians, *scene.camera, *grid, mode, threads=threads)
        assert torch.equal(direct.row_offsets, expected.row_offsets)
        assert torch.equal(direct.cols, expected.cols)
        # Sums over a footprint in another order.
        torch.testing.assert_close(direct.vals, expected.vals, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="multiple"):
        view_token_weights(scene.gaussians, *scene.camera, 5, 5, "box")


def test_output_memory_comes_back_once_nothing_holds_it() -> None:
    spare = Spare()
    first = spare.lend("maps", 1024, 1025)
    first.fill_(1)
    row, address = first[7], first.data_ptr()
    del first
    second = spare.lend("maps", 1024, 1025)
    assert second.data_ptr() != address  # a view was still alive
    second.fill_(2)
    assert (row == 1).all()
    del row
    assert spare.lend("maps", 1024, 1025).data_ptr() == address


def test_tent_is_the_normalised_adjoint_of_upsampling() -> None:
    upsample = F.interpolate(torch.eye(6)[None], size=84, mode="linear")[0]  # [token, pixel]
    expected = upsample / upsample.sum(1, keepdim=True)
    ours = reference.axis_kernel(6, 84, "tent", torch.float32)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)  # float32 positions


def test_box_is_the_mean_over_a_patch(scene_factory: Callable) -> None:
    scene = scene_factory(count=100, width=56, height=42)
    weights = view_weights(scene.gaussians, *scene.camera)
    f = _random(100, 3)
    image = weights.apply(f).permute(2, 0, 1)[None]
    expected = F.avg_pool2d(image, 14)[0].permute(1, 2, 0)
    torch.testing.assert_close(weights.pool(3, 4, "box").apply(f), expected, rtol=0, atol=1e-5)


def test_threads_give_the_same_bits(scene_factory: Callable) -> None:
    scene = scene_factory(count=300, width=90, height=70)
    f, g = _random(300, 70), _random(70, 90, 70, seed=1)
    t = _random(7, 9, 70, seed=2)
    results = []
    for threads in (1, 2, 3):
        weights = view_weights(scene.gaussians, *scene.camera, threads=threads)
        tokens = weights.pool(7, 9)
        results.append(
            [weights.apply(f), weights.apply_t(g), tokens.row_offsets, tokens.cols, tokens.vals,
             tokens.apply(f), tokens.apply_t(t)]
        )  # fmt: skip
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_pooled_products_add_up_over_views(scene_factory: Callable) -> None:
    scene = scene_factory(count=80)
    total, expected = _random(80, 45, seed=5), _random(80, 45, seed=5)
    for seed, columns in enumerate((4, 7)):
        tokens = view_weights(scene.gaussians, *scene.camera).pool(3, columns)
        maps = _random(3, columns, 45, seed=seed)
        assert tokens.apply_t(maps, out=total) is total
        expected += tokens.apply_t(maps)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-6)  # the sums start elsewhere
    with pytest.raises(ValueError, match="out"):
        tokens.apply_t(maps, out=total[:, :3])


def test_an_empty_view(scene_factory: Callable) -> None:
    scene = scene_factory(count=5)
    viewmat = scene.viewmat.clone()
    viewmat[2, 3] -= 100
    weights = view_weights(scene.gaussians, viewmat, *scene.camera[1:])
    assert weights.nnz == 0 and (weights.alphas == 0).all()
    assert (weights.apply(torch.ones(5, 9)) == 0).all()
    assert (weights.apply_t(torch.ones(scene.height, scene.width, 9)) == 0).all()
    tokens = weights.pool(2, 3)
    assert tokens.nnz == 0 and (tokens.row_sums == 0).all()
    assert (tokens.apply_t(torch.ones(2, 3, 9)) == 0).all()


def test_storage_is_kept_for_the_next_matrix() -> None:
    spare = Spare()
    for rows in (0, 3, 100):  # none kept yet, none large enough
        kept = spare.take("weights", rows, 8)
        assert len(kept) >= rows and kept.shape[1] == 8
        spare.give({"weights": kept})
    assert spare.take("weights", 90, 8) is kept
    assert spare.take("weights", 90, 8) is not kept  # it was taken
    spare.give({"weights": kept})
    assert spare.take("weights", 90, 4) is not kept
    spare.give({"weights": kept})
    assert spare.take("weights", 3, 8) is not kept  # far too large


def test_memory_that_is_not_there() -> None:
    with pytest.raises(EnvironmentFault, match="GiB"):
        empty(1 << 40, 8)


def test_grids_and_shapes_are_checked(scene_factory: Callable) -> None:
    scene = scene_factory(count=5)
    weights = view_weights(scene.gaussians, *scene.camera)
    with pytest.raises(ValueError, match="multiple"):
        weights.pool(4, 4, "box")
    with pytest.raises(ValueError, match="grid"):
        weights.pool(0, 4)
    with pytest.raises(ValueError, match="values"):
        weights.apply(torch.ones(6, 2))
    with pytest.raises(ValueError, match="maps"):
        weights.apply_t(torch.ones(3, 3, 2))
    with pytest.raises(ValueError, match="features"):
        weights.pool(2, 2).apply(torch.ones(6, 2))
