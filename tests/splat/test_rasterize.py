"""The rasteriser: values and every gradient against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fit3d_cli.errors import DeviceError
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat import reference
from fit3d_cli.splat.rasterize import rasterize, render_gaussians
from fit3d_cli.splat.view import View

NAMES = ("means", "quats", "scales", "opacities", "values")


def _compare(scene, dim: int, threads: int = 1) -> None:
    rng = torch.Generator().manual_seed(dim)
    width, height = scene.width, scene.height
    values = torch.randn(len(scene.gaussians), dim, generator=rng)
    view = View(*scene.camera)
    doubles = [t.double() for t in scene.geometry()]
    dense = reference.blend_weights(reference.project(*doubles, view), doubles[3], width, height)
    # float32 and float64 may decide differently at a threshold: such pixels are left out.
    # 1e-3 is far above the relative error of alpha (1e-5) and of T.
    safe = (dense.kink > 1e-3).reshape(height, width)
    assert safe.float().mean() > 0.8
    v_values = torch.randn(height, width, dim, generator=rng) * safe[..., None]
    v_alphas = torch.randn(height, width, generator=rng) * safe
    results = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (*scene.geometry(), values)]
        out = rasterize(*inputs, *scene.camera, backend=backend, threads=threads)
        out.means2d.retain_grad()
        loss = (out.values * v_values).sum() + (out.alphas * v_alphas).sum()
        grads = torch.autograd.grad(loss, [*inputs, out.means2d])
        results.append((out.values[safe], out.alphas[safe], grads))
    (image, alphas, grads), (image64, alphas64, grads64) = results
    # Sums of at most a few dozen float32 products of order one.
    torch.testing.assert_close(image.double(), image64, rtol=0, atol=2e-5)
    torch.testing.assert_close(alphas.double(), alphas64, rtol=0, atol=1e-5)
    for name, a, b in zip((*NAMES, "means2d"), grads, grads64, strict=True):
        # Relative to the largest entry: long float32 sums with cancelling signs.
        assert (a - b).abs().max() <= 2e-4 * b.abs().max(), name


@pytest.mark.parametrize("dim", [1, 3, 4, 8, 9, 10, 11, 64, 65, 384])
def test_equals_reference(scene_factory: Callable, isa: str, dim: int) -> None:
    _compare(scene_factory(), dim)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (33, 2), (3, 50)])
def test_equals_reference_at_any_size(scene_factory: Callable, size: tuple[int, int]) -> None:
    _compare(scene_factory(width=size[0], height=size[1], seed=3), 3)


def test_equals_reference_where_pixels_saturate(scene_factory: Callable, isa: str) -> None:
    scene = scene_factory(count=250, seed=5)
    g = scene.gaussians
    dense = Gaussians(g.means, g.quats, 2 * g.scales, (g.opacities + 0.4).clamp(max=1.0), g.sh)
    scene = type(scene)(dense, *scene.camera)
    out = rasterize(*scene.geometry(), torch.ones(250, 1), *scene.camera)
    assert (out.alphas > 0.999).float().mean() > 0.3  # the early stop is taken
    _compare(scene, 4)


def test_depth_ties_go_to_the_lower_index() -> None:
    count = 6
    means = torch.tensor([[0.0, 0.0, 2.0]]).repeat(count, 1)
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1)
    opacities, scales = torch.full((count,), 0.6), torch.full((count, 3), 0.2)
    K = torch.tensor([[20.0, 0, 4.5], [0, 20, 4.5], [0, 0, 1]])
    values = torch.eye(count)
    out = rasterize(means, quats, scales, opacities, values, torch.eye(4), K, 9, 9)
    # At the centre pixel alpha is 0.6 for each, so the weights are 0.6 * 0.4^i in index order.
    expected = 0.6 * 0.4 ** torch.arange(count)
    torch.testing.assert_close(out.values[4, 4], expected, rtol=1e-5, atol=0)  # float32 rounding


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_see(scene_factory: Callable, count: int) -> None:
    scene = scene_factory(count=max(count, 1))
    geometry = [t[:count].clone().requires_grad_() for t in scene.geometry()]
    values = torch.ones(count, 5, requires_grad=True)
    viewmat = scene.viewmat.clone()
    viewmat[2, 3] -= 100  # everything lies behind the camera
    out = rasterize(*geometry, values, viewmat, scene.K, scene.width, scene.height)
    assert (out.values == 0).all() and (out.alphas == 0).all() and (out.radii == 0).all()
    for grad in torch.autograd.grad(out.values.sum() + out.alphas.sum(), [*geometry, values]):
        assert (grad == 0).all()


def test_unsound_gaussians_change_nothing(scene_factory: Callable) -> None:
    scene = scene_factory(count=30)
    values = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    clean = rasterize(*scene.geometry(), values, *scene.camera)
    broken = [torch.cat([t, t[:3]]) for t in scene.geometry()]
    broken[0][30] = float("nan")
    broken[1][31] = 0
    broken[2][32] = float("inf")
    leaves = [t.requires_grad_() for t in broken]
    out = rasterize(*leaves, torch.cat([values, values[:3]]), *scene.camera)
    assert torch.equal(out.values, clean.values) and torch.equal(out.alphas, clean.alphas)
    for grad in torch.autograd.grad(out.values.sum(), leaves):
        assert torch.isfinite(grad).all() and (grad[30:] == 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_wild_parameters_stay_finite(isa: str, seed: int) -> None:
    """Sizes and distances over many magnitudes; W 1 = alpha holds whatever comes in."""
    rng = torch.Generator().manual_seed(seed)
    count, (width, height) = 40, torch.randint(1, 60, (2,), generator=rng).tolist()
    geometry = [
        torch.randn(count, 3, generator=rng) * 10 ** (6 * torch.rand(count, 1, generator=rng) - 3),
        torch.randn(count, 4, generator=rng)
        * 10 ** (20 * torch.rand(count, 1, generator=rng) - 10),
        10 ** (9 * torch.rand(count, 3, generator=rng) - 5),
        1.2 * torch.rand(count, generator=rng),
    ]
    leaves = [t.requires_grad_() for t in geometry]
    K = torch.tensor([[30.0, 0, width / 3], [0, 25, height / 2], [0, 0, 1]])
    out = rasterize(*leaves, torch.ones(count, 1), torch.eye(4), K, width, height)
    # A product against a sum of at most 40 float32 terms.
    torch.testing.assert_close(out.values[..., 0], out.alphas, rtol=0, atol=1e-5)
    for grad in torch.autograd.grad(out.values.sum() + out.alphas.sum(), leaves):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("dim", [3, 70])
def test_threads_and_repetition_give_the_same_bits(scene_factory: Callable, dim: int) -> None:
    scene = scene_factory(count=400, width=90, height=70)
    values = torch.randn(400, dim, generator=torch.Generator().manual_seed(0))
    results = []
    for threads in (1, 2, 3, 2):
        inputs = [t.clone().requires_grad_() for t in (*scene.geometry(), values)]
        out = rasterize(*inputs, *scene.camera, threads=threads)
        loss = (out.values**2).sum() + out.alphas.sum()
        results.append([out.values, out.alphas, *torch.autograd.grad(loss, inputs)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_two_graphs_at_once_do_not_share_memory(scene_factory: Callable) -> None:
    """The storage of W is reused, but only once nothing refers to it."""
    scenes = [scene_factory(count=200, seed=seed) for seed in (1, 2)]

    def forward(scene):
        leaf = scene.gaussians.means.clone().requires_grad_()
        out = rasterize(leaf, *scene.geometry()[1:], torch.ones(200, 2), *scene.camera)
        return leaf, out.values.square().sum()

    alone = [torch.autograd.grad(*reversed(forward(scene)))[0] for scene in scenes]
    together = [forward(scene) for scene in scenes]
    for (leaf, loss), expected in zip(together, alone, strict=True):
        assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], expected)
        assert torch.equal(torch.autograd.grad(loss, leaf)[0], expected)


def test_permuting_gaussians_and_channels(scene_factory: Callable) -> None:
    scene = scene_factory()
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(60, 12, generator=rng)
    index, channels = torch.randperm(60, generator=rng), torch.randperm(12, generator=rng)
    out = rasterize(*scene.geometry(), values, *scene.camera)
    geometry = [t[index] for t in scene.geometry()]
    again = rasterize(*geometry, values[index][:, channels], *scene.camera)
    # The order of depth fixes the order of every sum; only which channels share a vector moves.
    torch.testing.assert_close(again.values, out.values[..., channels], rtol=0, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_render_gaussians_equals_reference(scene_factory: Callable, degree: int) -> None:
    scene = scene_factory(degree=3)
    leaves, pictures = [], []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        tensors = [t.to(dtype) for t in (*scene.geometry(), scene.gaussians.sh)]
        tensors[4].requires_grad_()
        leaves.append(tensors[4])
        pictures.append(
            render_gaussians(Gaussians(*tensors), *scene.camera, sh_degree=degree, backend=backend)
        )
    ours, exact = pictures
    view = View(*scene.camera)
    doubles = [t.double() for t in scene.geometry()]
    dense = reference.blend_weights(
        reference.project(*doubles, view), doubles[3], scene.width, scene.height
    )
    safe = (dense.kink > 1e-3).reshape(scene.height, scene.width)
    for name in ("rgb", "weighted_depth", "depth", "alphas"):
        a, b = getattr(ours, name)[safe].double(), getattr(exact, name)[safe]
        # float32; depth divides by alpha, which is at least 1/255 where anything was hit.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 if name == "depth" else 3e-5, msg=name)
    grads = [
        torch.autograd.grad((picture.rgb * safe[..., None]).sum(), leaf)[0]
        for picture, leaf in zip(pictures, leaves, strict=True)
    ]
    assert (grads[0] - grads[1]).abs().max() <= 1e-4 * grads[1].abs().max()  # float32 sums
    assert (grads[0][:, (degree + 1) ** 2 :] == 0).all()


def test_inputs_are_checked(scene_factory: Callable) -> None:
    scene = scene_factory(count=4)
    means, quats, scales, opacities = scene.geometry()
    values = torch.ones(4, 3)
    with pytest.raises(TypeError, match="means is"):
        rasterize(means.double(), quats, scales, opacities, values, *scene.camera)
    with pytest.raises(ValueError, match="quats"):
        rasterize(means, quats[:, :3], scales, opacities, values, *scene.camera)
    with pytest.raises(ValueError, match="values"):
        rasterize(means, quats, scales, opacities, values[:3], *scene.camera)
    with pytest.raises(DeviceError, match="meta"):
        rasterize(means.to("meta"), quats, scales, opacities, values, *scene.camera)
    with pytest.raises(ValueError, match="sh_degree"):
        render_gaussians(scene.gaussians, *scene.camera, sh_degree=2)
