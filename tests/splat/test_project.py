"""Projection against the reference and against gsplat."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.splat import reference
from fit3d_cli.splat.kernel import Project
from fit3d_cli.splat.view import View


def _view(scene) -> View:
    return View(scene.viewmat, scene.K, scene.width, scene.height)


def test_project_forward_equals_reference(scene_factory: Callable) -> None:
    scene = scene_factory(count=300)
    ours = Project.apply(*scene.geometry(), _view(scene), 1)
    theirs = reference.project(*(t.double() for t in scene.geometry()), _view(scene))
    assert 50 < int((theirs.radii[:, 0] > 0).sum()) < 300  # both kinds are present
    # A radius is a ceiling: rounding may move it by one pixel, and only rarely.
    difference = (ours[3] - theirs.radii).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02
    for name, a, b in zip(("means2d", "conics", "depths"), ours, theirs, strict=False):
        # float32 chains of about 50 operations, relative to each value's own scale.
        torch.testing.assert_close(a.double(), b, rtol=3e-5, atol=1e-5, msg=name)


def test_project_backward_equals_reference(scene_factory: Callable) -> None:
    scene = scene_factory(count=300)
    rng = torch.Generator().manual_seed(1)
    upstream = [torch.randn(300, *s, generator=rng) for s in ((2,), (3,), ())]
    grads = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in scene.geometry()]
        if dtype == torch.float32:
            out = Project.apply(*inputs, _view(scene), 2)
        else:
            out = reference.project(*inputs, _view(scene))
        loss = sum((o * u.to(dtype)).sum() for o, u in zip(out, upstream, strict=False))
        grads.append(torch.autograd.grad(loss, inputs[:3]))
    for name, a, b in zip(("means", "quats", "scales"), *grads, strict=True):
        # Relative to the largest entry: the conic's adjoint multiplies two float32 inverses.
        assert (a - b).abs().max() <= 1e-4 * b.abs().max(), name


@pytest.mark.parametrize("spread", [0.5, 3.0])  # 3: many centres lie beyond the clamped border
def test_projection_equals_gsplat(scene_factory: Callable, spread: float) -> None:
    impl = pytest.importorskip("gsplat.cuda._torch_impl")
    scene = scene_factory(count=800)
    means, quats, scales, _ = scene.geometry()
    camera = means.double() @ scene.viewmat[:3, :3].T + scene.viewmat[:3, 3]
    camera[:, :2] *= spread
    means = ((camera - scene.viewmat[:3, 3]) @ scene.viewmat[:3, :3]).float()
    opaque = torch.ones(800)  # gsplat's extent is that of opacity one
    factor = quats_to_matrices(quats.double()) * scales.double()[:, None]
    radii, means2d, depths, conics, _ = impl._fully_fused_projection(
        means.double(), factor @ factor.transpose(1, 2), scene.viewmat[None], scene.K[None],
        scene.width, scene.height,
    )  # fmt: skip
    ours = Project.apply(means, quats, scales, opaque, _view(scene), 1)
    both = (radii[0] > 0).all(1) & (ours[3] > 0).all(1)
    assert int(both.sum()) > 50
    # Its extent is 3.33 sigma, ours sqrt(2 ln 255) = 3.329: one pixel at most, also in culling.
    assert (radii[0][both] - ours[3][both]).abs().max() <= 1
    assert ((radii[0] > 0).all(1) != both).float().mean() < 0.02
    for a, b in zip(ours, (means2d, conics, depths), strict=False):
        # As against our own reference: float32 against float64.
        torch.testing.assert_close(a[both].double(), b[0][both], rtol=3e-5, atol=1e-5)


def test_unsound_gaussians_are_culled_without_gradients(scene_factory: Callable) -> None:
    scene = scene_factory(count=12)
    geometry = [t.clone() for t in scene.geometry()]
    geometry[0][0, 1] = float("nan")
    geometry[0][1, 2] = float("inf")
    geometry[1][2] = 0.0
    geometry[1][3, 0] = float("nan")
    geometry[2][4, 0] = float("inf")
    geometry[3][5] = float("nan")
    geometry[3][6] = 0.003  # below 1/255
    geometry[0][7] = (-scene.viewmat[:3, :3].T @ scene.viewmat[:3, 3]).float()  # at the eye
    geometry[0][8] = 2 * geometry[0][7] - geometry[0][8]  # behind it
    for backend in ("kernel", "reference"):
        inputs = [t.clone().requires_grad_() for t in geometry]
        if backend == "kernel":
            out = Project.apply(*inputs, _view(scene), 1)
        else:
            out = reference.project(*inputs, _view(scene).to(torch.float32))
        for tensor in out:
            assert torch.isfinite(tensor).all(), backend
            assert (tensor[:9] == 0).all(), backend
        assert (out[3][9:] > 0).any()
        grads = torch.autograd.grad(sum(o.sum() for o in out[:3]), inputs[:3])
        for grad in grads:
            assert torch.isfinite(grad).all() and (grad[:9] == 0).all(), backend


def test_a_view_is_checked() -> None:
    eye, K = torch.eye(4), torch.tensor([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]])
    skewed, blown = K.clone(), eye.clone()
    skewed[0, 1], blown[0, 3] = 1, float("nan")
    for arguments in (
        (eye, skewed, 8, 8), (blown, K, 8, 8), (eye, K, 0, 8), (eye[:3], K, 8, 8),
        (eye, K, 8, 8, 0.0), (eye, K, 8, 8, 2.0, 1.0), (eye, K, 8, 8, 0.01, 10.0, -1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            View(*arguments)
