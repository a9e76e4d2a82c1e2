"""The CUDA engine against the CPU's, in the emulator and, where there is one, on a GPU."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat import reference
from fit3d_cli.splat.cuda import loader
from fit3d_cli.splat.rasterize import rasterize, render_gaussians, view_weights
from fit3d_cli.splat.view import View

NAMES = ("means", "quats", "scales", "opacities", "values", "means2d")
# tf32 keeps 10 fraction bits: both factors of a product are off by 2^-11 at most.
TF32 = 1.01 * 2**-10


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.cpu() - b).abs().max() / b.abs().max())


def _safe(scene) -> Tensor:
    """Pixels where both processors decide alike: off every threshold by more than rounding."""
    doubles = [t.double() for t in scene.geometry()]
    projected = reference.project(*doubles, View(*scene.camera))
    dense = reference.blend_weights(projected, doubles[3], scene.width, scene.height)
    safe = (dense.kink > 1e-4).reshape(scene.height, scene.width)
    assert safe.float().mean() > 0.9
    return safe


def _run(scene, values: Tensor, device: torch.device, upstream: list[Tensor], **options) -> list:
    leaves = [t.detach().to(device).requires_grad_() for t in (*scene.geometry(), values)]
    out = rasterize(*leaves, *scene.camera, **options)
    loss = (out.values * upstream[0].to(device)).sum() + (out.alphas * upstream[1].to(device)).sum()
    return [out.values, out.alphas, *torch.autograd.grad(loss, [*leaves, out.means2d])]


def _compare(scene, dim: int, device: torch.device, **options) -> tuple[list, list, Tensor]:
    values = _random(len(scene.gaussians), dim, seed=dim)
    safe = _safe(scene)
    upstream = [_random(scene.height, scene.width, dim, seed=1) * safe[..., None],
                _random(scene.height, scene.width, seed=2) * safe]  # fmt: skip
    expected = _run(scene, values, torch.device("cpu"), upstream, backend="cpu")
    ours = _run(scene, values, device, upstream, **options)
    return [t.cpu() for t in ours], expected, safe


def _assert_equal(ours: list[Tensor], expected: list[Tensor], safe: Tensor) -> None:
    # Sums of at most a few dozen float32 products of order one, in another order.
    torch.testing.assert_close(ours[0][safe], expected[0][safe], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours[1][safe], expected[1][safe], rtol=0, atol=1e-5)
    for name, a, b in zip(NAMES, ours[2:], expected[2:], strict=True):
        # Relative to the largest entry: long float32 sums with cancelling signs.
        assert (a - b).abs().max() <= 2e-4 * b.abs().max(), name


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("dim", [1, 3, 5, 64, 65, 384])
def test_equals_cpu(
    scene_factory: Callable, device: torch.device, dim: int, deterministic: bool
) -> None:
    _assert_equal(*_compare(scene_factory(), dim, device, deterministic=deterministic))


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (33, 2), (3, 50), (96, 80)])
def test_equals_cpu_at_any_size(
    scene_factory: Callable, device: torch.device, size: tuple[int, int]
) -> None:
    scene = scene_factory(count=150, width=size[0], height=size[1], seed=3)
    _assert_equal(*_compare(scene, 3, device))


def test_equals_cpu_where_pixels_saturate(scene_factory: Callable, device: torch.device) -> None:
    """More than one batch of list items per tile, and most pixels stop early."""
    scene = scene_factory(count=700, seed=5)
    g = scene.gaussians
    dense = Gaussians(g.means, g.quats, 2 * g.scales, (g.opacities + 0.4).clamp(max=1.0), g.sh)
    scene = type(scene)(dense, *scene.camera)
    ours, expected, safe = _compare(scene, 4, device)
    assert (ours[1] > 0.999).float().mean() > 0.3  # the early stop is taken
    _assert_equal(ours, expected, safe)


@pytest.mark.parametrize("dim", [1, 3, 40, 64, 65, 384])
def test_tensor_cores_keep_their_bound(
    scene_factory: Callable, device: torch.device, dim: int
) -> None:
    scene = scene_factory(count=200)
    f, g = _random(200, dim), _random(scene.height, scene.width, dim, seed=1)
    cpu = view_weights(scene.gaussians, *scene.camera, backend="cpu")
    safe = _safe(scene)
    g = g * safe[..., None]
    for deterministic in (True, False):
        ours = view_weights(
            scene.gaussians.to(device), *scene.camera, math="tensor", deterministic=deterministic
        )
        # The bound is relative to the sum of magnitudes; 1e-5 covers float32 sums.
        error = (ours.apply(f.to(device)).cpu() - cpu.apply(f)).abs()[safe]
        assert (error <= TF32 * cpu.apply(f.abs())[safe] + 1e-5).all()
        error = (ours.apply_t(g.to(device)).cpu() - cpu.apply_t(g)).abs()
        assert (error <= TF32 * cpu.apply_t(g.abs()) + 1e-5).all()
    ours, expected, safe = _compare(scene, dim, device, math="tensor")
    # Geometry never goes through tf32: only the values' gradient may differ by more.
    ours[0], ours[6] = expected[0], expected[6]
    _assert_equal(ours, expected, safe)


def test_only_asked_for_gradients_are_computed(
    scene_factory: Callable, device: torch.device
) -> None:
    module, scene = loader.load(), scene_factory()
    leaves = [t.to(device).requires_grad_() for t in (*scene.geometry(), _random(60, 7))]

    def refuse(*_: object) -> None:
        raise AssertionError("not asked for")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("blend_moments", "reduce_moments", "project_backward"):
            patch.setattr(module, name, refuse)
        frozen = [t.detach() for t in leaves[:4]]
        loss = rasterize(*frozen, leaves[4], *scene.camera).values.sum()
        assert float(torch.autograd.grad(loss, leaves[4])[0].abs().max()) > 0
    with pytest.MonkeyPatch.context() as patch:
        for name in ("apply_t_rows", "apply_t_atomic"):
            patch.setattr(module, name, refuse)
        loss = rasterize(*leaves[:4], leaves[4].detach(), *scene.camera).values.sum()
        assert float(torch.autograd.grad(loss, leaves[0])[0].abs().max()) > 0


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_see(scene_factory: Callable, device: torch.device, count: int) -> None:
    scene = scene_factory(count=max(count, 1))
    geometry = [t[:count].to(device).requires_grad_() for t in scene.geometry()]
    values = torch.ones(count, 5, device=device, requires_grad=True)
    viewmat = scene.viewmat.clone()
    viewmat[2, 3] -= 100  # everything lies behind the camera
    camera = (viewmat, *scene.camera[1:])
    out = rasterize(*geometry, values, *camera)
    assert (out.values == 0).all() and (out.alphas == 0).all() and (out.radii == 0).all()
    for grad in torch.autograd.grad(out.values.sum() + out.alphas.sum(), [*geometry, values]):
        assert (grad == 0).all()
    g = scene.gaussians
    few = Gaussians(
        *(t[:count].to(device) for t in (g.means, g.quats, g.scales, g.opacities, g.sh))
    )
    weights = view_weights(few, *camera)
    assert weights.nnz == 0
    assert (weights.apply_t(torch.ones(scene.height, scene.width, 9, device=device)) == 0).all()
    tokens = weights.pool(2, 3)
    assert tokens.nnz == 0 and (tokens.row_sums == 0).all()
    assert (tokens.apply_t(torch.ones(2, 3, 9, device=device)) == 0).all()


def test_no_channels(scene_factory: Callable, device: torch.device) -> None:
    scene = scene_factory()
    geometry = [t.to(device) for t in scene.geometry()]
    out = rasterize(*geometry, torch.ones(60, 0, device=device), *scene.camera)
    assert out.values.shape == (scene.height, scene.width, 0) and float(out.alphas.max()) > 0


def test_unsound_gaussians_change_nothing(scene_factory: Callable, device: torch.device) -> None:
    scene = scene_factory(count=30)
    values = _random(33, 3).to(device)
    clean = rasterize(*(t.to(device) for t in scene.geometry()), values[:30], *scene.camera)
    broken = [torch.cat([t, t[:3]]) for t in scene.geometry()]
    broken[0][30] = float("nan")
    broken[1][31] = 0
    broken[2][32] = float("inf")
    leaves = [t.to(device).requires_grad_() for t in broken]
    out = rasterize(*leaves, values, *scene.camera)
    assert torch.equal(out.values, clean.values) and torch.equal(out.alphas, clean.alphas)
    for grad in torch.autograd.grad(out.values.sum(), leaves):
        assert torch.isfinite(grad).all() and (grad[30:] == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_wild_parameters_stay_finite(device: torch.device, seed: int) -> None:
    """Sizes and distances over many magnitudes; W 1 = alpha holds whatever comes in."""
    rng = torch.Generator().manual_seed(seed)
    count, (width, height) = 40, torch.randint(1, 60, (2,), generator=rng).tolist()
    powers = 10 ** (6 * torch.rand(count, 1, generator=rng) - 3)
    geometry = [
        torch.randn(count, 3, generator=rng) * powers,
        torch.randn(count, 4, generator=rng)
        * 10 ** (20 * torch.rand(count, 1, generator=rng) - 10),
        10 ** (9 * torch.rand(count, 3, generator=rng) - 5),
        1.2 * torch.rand(count, generator=rng),
    ]
    leaves = [t.to(device).requires_grad_() for t in geometry]
    K = torch.tensor([[30.0, 0, width / 3], [0, 25, height / 2], [0, 0, 1]])
    ones = torch.ones(count, 1, device=device)
    out = rasterize(*leaves, ones, torch.eye(4), K, width, height)
    # A product against a sum of at most 40 float32 terms.
    torch.testing.assert_close(out.values[..., 0], out.alphas, rtol=0, atol=1e-5)
    for grad in torch.autograd.grad(out.values.sum() + out.alphas.sum(), leaves):
        assert torch.isfinite(grad).all()


def test_depth_ties_go_to_the_lower_index(device: torch.device) -> None:
    count = 6
    means = torch.tensor([[0.0, 0.0, 2.0]], device=device).repeat(count, 1)
    quats = torch.tensor([[1.0, 0, 0, 0]], device=device).repeat(count, 1)
    opacities = torch.full((count,), 0.6, device=device)
    scales = torch.full((count, 3), 0.2, device=device)
    K = torch.tensor([[20.0, 0, 4.5], [0, 20, 4.5], [0, 0, 1]])
    values = torch.eye(count, device=device)
    out = rasterize(means, quats, scales, opacities, values, torch.eye(4), K, 9, 9)
    expected = 0.6 * 0.4 ** torch.arange(count)  # the weights at the centre, in index order
    torch.testing.assert_close(out.values[4, 4].cpu(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_pictures_equal_the_cpu(scene_factory: Callable, device: torch.device, degree: int) -> None:
    scene = scene_factory(degree=3)
    safe = _safe(scene)
    upstream = _random(scene.height, scene.width, 3) * safe[..., None]
    results = []
    for where, backend in ((torch.device("cpu"), "cpu"), (device, "auto")):
        g = scene.gaussians.to(where)
        sh = g.sh.clone().requires_grad_()
        picture = render_gaussians(
            Gaussians(g.means, g.quats, g.scales, g.opacities, sh), *scene.camera,
            sh_degree=degree, backend=backend,
        )  # fmt: skip
        (grad,) = torch.autograd.grad((picture.rgb * upstream.to(where)).sum(), sh)
        results.append([t.detach().cpu() for t in (picture.rgb, picture.weighted_depth, grad)])
    for a, b in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(b[safe], a[safe], rtol=0, atol=3e-5)  # float32, depths of ~5
    assert _relative(results[1][2], results[0][2]) < 2e-4
    assert (results[1][2][:, (degree + 1) ** 2 :] == 0).all()


GRIDS = [("box", (4, 7)), ("tent", (4, 6)), ("tent", (28, 40)), ("box", (28, 42)),
         ("tent", (1, 1)), ("box", (2, 3))]  # fmt: skip


@pytest.mark.parametrize(("mode", "grid"), GRIDS)
def test_pooled_weights_equal_the_cpu(
    scene_factory: Callable, device: torch.device, mode: str, grid: tuple[int, int]
) -> None:
    scene = scene_factory(count=150, width=84, height=56)
    cpu = view_weights(scene.gaussians, *scene.camera, backend="cpu").pool(*grid, mode)
    ours = view_weights(scene.gaussians.to(device), *scene.camera).pool(*grid, mode)
    offsets, cols, vals = ours.row_offsets.cpu(), ours.cols.cpu(), ours.vals.cpu()
    assert offsets[0] == 0 and offsets[-1] == len(cols) == len(vals)
    dense = []
    for o, c, v in ((offsets, cols, vals), (cpu.row_offsets, cpu.cols, cpu.vals)):
        rows = torch.repeat_interleave(torch.arange(grid[0] * grid[1]), o.diff())
        dense.append(torch.zeros(grid[0] * grid[1], 150).index_put((rows, c.long()), v))
        ascending = (c[1:] > c[:-1]) | (rows[1:] > rows[:-1])
        assert ascending.all() and (v > 0).all()
    # Means of float32 weights; a pixel at a threshold (1/255) counts here and not there.
    assert ((dense[0] - dense[1]).abs() > 2e-5).float().mean() < 1e-3
    torch.testing.assert_close(ours.row_sums.cpu(), cpu.row_sums, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dim", [1, 3, 33, 64, 100])
def test_sparse_products(scene_factory: Callable, device: torch.device, dim: int) -> None:
    scene = scene_factory(count=90)
    tokens = view_weights(scene.gaussians.to(device), *scene.camera).pool(5, 6)
    rows = torch.repeat_interleave(torch.arange(30, device=device), tokens.row_offsets.diff())
    dense = torch.zeros(30, 90, device=device).index_put((rows, tokens.cols.long()), tokens.vals)
    f, maps = _random(90, dim).to(device), _random(5, 6, dim, seed=1).to(device)
    start = _random(90, dim, seed=2).to(device)
    features = f.clone().requires_grad_()
    out = tokens.apply(features)
    # Sums of at most 90 float32 products.
    torch.testing.assert_close(out, (dense @ f).view(5, 6, dim), rtol=0, atol=1e-5)
    (grad,) = torch.autograd.grad(out, features, maps)
    expected = dense.T @ maps.view(30, dim)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-5)
    total = start.clone()
    assert tokens.apply_t(maps, out=total) is total
    torch.testing.assert_close(total, start + expected, rtol=0, atol=1e-5)
    offsets, columns, vals = tokens.transposed()
    back = torch.repeat_interleave(torch.arange(90, device=device), offsets.diff())
    again = torch.zeros(90, 30, device=device).index_put((back, columns.long()), vals)
    assert torch.equal(again, dense.T)
    assert ((columns[1:] > columns[:-1]) | (back[1:] > back[:-1])).all()


@pytest.mark.parametrize("dim", [1, 3, 64, 65])
def test_apply_t_is_the_adjoint(scene_factory: Callable, device: torch.device, dim: int) -> None:
    scene = scene_factory(count=200)
    weights = view_weights(scene.gaussians.to(device), *scene.camera)
    f, g = _random(200, dim).to(device), _random(scene.height, scene.width, dim, seed=1).to(device)
    left = (weights.apply(f).double() * g).sum()
    right = (f * weights.apply_t(g).double()).sum()
    scale = (weights.apply(f.abs()).double() * g.abs()).sum()
    assert abs(left - right) <= 1e-6 * scale  # the same products, in two float32 orders
    total = weights.apply(torch.ones(200, 1, device=device))[..., 0]
    torch.testing.assert_close(total, weights.alphas, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dim", [4, 64])
def test_memory_may_begin_anywhere(scene_factory: Callable, device: torch.device, dim: int) -> None:
    """A contiguous slice of a tensor is aligned to its element only."""
    scene = scene_factory()
    weights = view_weights(scene.gaussians.to(device), *scene.camera)
    tokens = weights.pool(3, 4)
    pixels = scene.height * scene.width

    def shifted(t: Tensor) -> Tensor:
        room = torch.empty(t.numel() + 1, device=device)
        room[1:] = t.flatten()
        return room[1:].view(t.shape)

    f, g = _random(60, dim).to(device), _random(pixels, dim, seed=1).to(device)
    g, t = g.view(scene.height, scene.width, dim), _random(3, 4, dim).to(device)
    assert torch.equal(weights.apply(shifted(f)), weights.apply(f))
    assert torch.equal(weights.apply_t(shifted(g)), weights.apply_t(g))
    assert torch.equal(tokens.apply(shifted(f)), tokens.apply(f))
    assert torch.equal(tokens.apply_t(shifted(t)), tokens.apply_t(t))
    geometry = [shifted(x.to(device)).requires_grad_() for x in scene.geometry()]
    out = rasterize(*geometry, shifted(f), *scene.camera)
    assert torch.equal(out.values, weights.apply(f))
    for grad in torch.autograd.grad(out.values, geometry, shifted(g)):
        assert torch.isfinite(grad).all()


def _everything(scene, device: torch.device, dim: int, **options) -> list[Tensor]:
    upstream = [_random(scene.height, scene.width, dim, seed=1),
                _random(scene.height, scene.width, seed=2)]  # fmt: skip
    values = _random(len(scene.gaussians), dim)
    results = _run(scene, values, device, upstream, **options)
    tokens = view_weights(scene.gaussians.to(device), *scene.camera).pool(3, 4)
    products = [tokens.apply(values.to(device)), tokens.apply_t(_random(3, 4, dim).to(device))]
    return [t.detach().cpu() for t in (*results, *tokens.transposed(), *products)]


@pytest.mark.parametrize("math", ["float32", "tensor"])
@pytest.mark.parametrize("dim", [3, 70])
def test_repetition_gives_the_same_bits(
    scene_factory: Callable, device: torch.device, dim: int, math: str
) -> None:
    on_gpu = device.type == "cuda"
    size = {"count": 3000, "width": 400, "height": 300} if on_gpu else {"count": 100}
    scene = scene_factory(**size)
    first = _everything(scene, device, dim, math=math)
    for _ in range(5 if on_gpu else 1):
        again = _everything(scene, device, dim, math=math)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("math", ["float32", "tensor"])
@pytest.mark.parametrize("dim", [3, 65])
def test_no_order_of_threads_changes_a_bit(
    scene_factory: Callable, emulated: ModuleType, device: torch.device, dim: int, math: str
) -> None:
    """A missing barrier shows when threads and blocks run in another order."""
    if device.type == "cuda":
        pytest.skip("a GPU's order cannot be chosen")
    scene = scene_factory(count=120, width=50, height=40)
    results = []
    try:
        for order in ("ascending", "descending", "random:1", "random:2"):
            emulated.set_order(order)
            results.append(_everything(scene, device, dim, math=math))
    finally:
        emulated.set_order("ascending")
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_two_graphs_at_once_do_not_share_memory(
    scene_factory: Callable, device: torch.device
) -> None:
    scenes = [scene_factory(count=200, seed=seed) for seed in (1, 2)]

    def forward(scene):
        leaf = scene.gaussians.means.to(device).clone().requires_grad_()
        rest = [t.to(device) for t in scene.geometry()[1:]]
        out = rasterize(leaf, *rest, torch.ones(200, 2, device=device), *scene.camera)
        return leaf, out.values.square().sum()

    alone = [torch.autograd.grad(*reversed(forward(scene)))[0] for scene in scenes]
    together = [forward(scene) for scene in scenes]
    for (leaf, loss), expected in zip(together, alone, strict=True):
        assert torch.equal(torch.autograd.grad(loss, leaf, retain_graph=True)[0], expected)
        assert torch.equal(torch.autograd.grad(loss, leaf)[0], expected)


def test_the_emulator_names_what_went_wrong(emulated: ModuleType) -> None:
    assert emulated.emulated is True
    with pytest.raises(ValueError, match="order"):
        emulated.set_order("sideways")
    with pytest.raises(emulated.CudaError) as caught:
        emulated.device_info(7)
    assert isinstance(caught.value, RuntimeError) and caught.value.code == 101  # invalid device


def test_the_stub_is_in_step(emulated: ModuleType, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("nanobind")
    fresh = tmp_path / "_cuda.pyi"
    folder = Path(str(emulated.__file__)).parent
    subprocess.run(
        [sys.executable, "-m", "nanobind.stubgen", "-q", "-D", "-i", folder, "-m", "_cuda",
         "-o", fresh],
        check=True,
    )  # fmt: skip
    committed = (repository / "fit3d_cli" / "_cuda.pyi").read_text(encoding="utf-8")
    # Compared as syntax trees: formatters may lay the committed one out differently.
    same = ast.dump(ast.parse(committed)) == ast.dump(ast.parse(fresh.read_text(encoding="utf-8")))
    assert same, "regenerate it, see kernels/README.md"
