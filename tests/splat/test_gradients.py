"""Derivatives by central differences - of the reference and of the kernels - and laws of W."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat import reference
from fit3d_cli.splat.rasterize import rasterize, render_gaussians, view_weights
from fit3d_cli.splat.view import View

NAMES = ("means", "quats", "scales", "opacities", "values")


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _safe(scene, margin: float) -> Tensor:
    """``[H, W]`` pixels farther than ``margin`` from every threshold, for every Gaussian."""
    doubles = [t.double() for t in scene.geometry()]
    view = View(*scene.camera)
    dense = reference.blend_weights(
        reference.project(*doubles, view), doubles[3], scene.width, scene.height
    )
    return (dense.kink > margin).reshape(scene.height, scene.width)


@pytest.mark.parametrize("dim", [1, 3, 5, 64, 65])
def test_reference_gradcheck(scene_factory: Callable, dim: int) -> None:
    """float64, 20 Gaussians, 16 x 16 pixels; differences across a kink fail for everyone."""
    scene = scene_factory(count=20, width=16, height=16, seed=dim)
    safe = _safe(scene, 1e-4)  # steps are 1e-6
    assert safe.float().mean() > 0.9
    inputs = [t.double() for t in (*scene.geometry(), _random(20, dim, seed=dim))]

    def render(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        out = rasterize(*tensors, *scene.camera, backend="reference")
        return out.values * safe[..., None], out.alphas * safe

    leaves = [t.requires_grad_() for t in inputs]
    # torch's own tolerances; fast mode checks random directions instead of every entry.
    assert torch.autograd.gradcheck(render, leaves, fast_mode=True)


def test_reference_gradcheck_of_pictures(scene_factory: Callable) -> None:
    """Through harmonics and depth; positions are held out, as directions carry no gradient."""
    scene = scene_factory(count=12, width=16, height=16, seed=2, degree=3)
    safe = _safe(scene, 1e-4)[..., None]
    means = scene.gaussians.means.double()
    rest = [t.double() for t in (*scene.geometry()[1:], scene.gaussians.sh)]

    def render(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        picture = render_gaussians(Gaussians(means, *tensors), *scene.camera, backend="reference")
        return picture.rgb * safe, picture.weighted_depth * safe[..., 0]

    assert torch.autograd.gradcheck(render, [t.requires_grad_() for t in rest], fast_mode=True)


@pytest.mark.parametrize("dim", [3, 64])
def test_kernel_against_its_own_differences(scene_factory: Callable, isa: str, dim: int) -> None:
    """The compiled adjoint is the derivative of the compiled forward pass, reference aside."""
    scene = scene_factory(count=20, width=16, height=16, seed=3)
    safe = _safe(scene, 0.05)  # steps move alpha by less
    assert safe.float().mean() > 0.2
    v_values = _random(16, 16, dim, seed=1).double() * safe[..., None]
    v_alphas = _random(16, 16, seed=2).double() * safe
    inputs = [t.clone() for t in (*scene.geometry(), _random(20, dim, seed=3))]

    def loss(*tensors: Tensor) -> Tensor:
        out = rasterize(*tensors, *scene.camera)
        return (out.values.double() * v_values).sum() + (out.alphas.double() * v_alphas).sum()

    leaves = [t.clone().requires_grad_() for t in inputs]
    grads = torch.autograd.grad(loss(*leaves), leaves)
    for which, (name, grad) in enumerate(zip(NAMES, grads, strict=True)):
        largest = torch.topk(grad.abs().flatten(), 4).indices
        for index in largest.tolist():
            step = 2e-3 * max(0.1, float(inputs[which].flatten()[index].abs()))
            sides = []
            for sign in (1, -1):
                moved = [t.clone() for t in inputs]
                moved[which].view(-1)[index] += sign * step
                at = moved[which].view(-1)[index].double()
                sides.append((at, loss(*moved)))
            slope = (sides[0][1] - sides[1][1]) / (sides[0][0] - sides[1][0])
            # Truncation (step squared times the third derivative) and float32 noise / step.
            assert abs(slope - grad.flatten()[index]) <= 1e-2 * grad.abs().max(), name


@pytest.mark.parametrize("dim", [1, 7, 64])
def test_a_constant_renders_as_alpha(scene_factory: Callable, isa: str, dim: int) -> None:
    scene = scene_factory(count=200)
    weights = view_weights(scene.gaussians, *scene.camera)
    constant = _random(1, dim, seed=0)
    expected = weights.alphas[..., None] * constant
    # Alpha is 1 - T, a product; the other side is a sum of up to a hundred float32 terms.
    torch.testing.assert_close(weights.apply(constant.repeat(200, 1)), expected, rtol=0, atol=1e-5)


def test_column_sums_majorise_the_gram_matrix(scene_factory: Callable, isa: str) -> None:
    """D - W^t W is positive semidefinite for D = diag(W^t 1), since rows of W sum to at most 1.

    The solvers' step sizes and preconditioners rest on it.
    """
    scene = scene_factory(count=40)
    weights = view_weights(scene.gaussians, *scene.camera)
    dense = weights.apply(torch.eye(40)).reshape(-1, 40).double()
    columns = weights.apply_t(torch.ones(scene.height, scene.width, 1))[:, 0].double()
    torch.testing.assert_close(columns, dense.sum(0), rtol=1e-5, atol=1e-6)  # float32 sums
    eigenvalues = torch.linalg.eigvalsh(torch.diag(columns) - dense.T @ dense)
    assert eigenvalues.min() >= -1e-6 * columns.max()  # the same rounding
    assert eigenvalues.max() > 1


@pytest.mark.parametrize("mode", ["box", "tent"])
def test_pooling_is_adjoint_and_associative(scene_factory: Callable, isa: str, mode: str) -> None:
    """A = P W: A f = P (W f), and A^t t = W^t (P^t t), which is another route altogether."""
    scene = scene_factory(count=120, width=40, height=24)
    weights = view_weights(scene.gaussians, *scene.camera)
    tokens = weights.pool(6, 8, mode)
    f, t = _random(120, 9, seed=0), _random(6, 8, 9, seed=1)
    rows, cols = (
        reference.axis_kernel(n, size, mode, torch.float64) for n, size in ((6, 24), (8, 40))
    )
    pooled = torch.einsum("ty,sx,yxd->tsd", rows, cols, weights.apply(f).double())
    spread = torch.einsum("ty,sx,tsd->yxd", rows, cols, t.double()).float()
    for ours, expected in (
        (tokens.apply(f), pooled), (tokens.apply_t(t), weights.apply_t(spread).double()),
    ):  # fmt: skip
        # float32 sums over a footprint.
        assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max() + 1e-6
