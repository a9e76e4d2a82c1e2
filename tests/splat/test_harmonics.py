"""Spherical harmonics: kernel = recurrences = gsplat, and the gradient."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli.splat import reference
from fit3d_cli.splat.kernel import Harmonics


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics(degree: int) -> None:
    rng = torch.Generator().manual_seed(degree)
    means, sh = torch.randn(50, 3, generator=rng), torch.randn(50, 16, 3, generator=rng)
    center = torch.tensor([0.1, -0.4, 0.2])
    radii = torch.ones(50, 2, dtype=torch.int32)
    radii[7] = 0
    leaf = sh.clone().requires_grad_()
    colors = Harmonics.apply(leaf, means, radii, center, degree, 1)
    exact = sh.double().requires_grad_()
    expected = reference.spherical_harmonics(exact, (means - center).double(), degree)
    expected = expected * (radii[:, :1] > 0)
    torch.testing.assert_close(colors.double(), expected, rtol=0, atol=1e-5)  # 16 float32 terms
    upstream = torch.randn(50, 3, generator=rng)
    (grad,) = torch.autograd.grad((colors * upstream).sum(), leaf)
    (grad64,) = torch.autograd.grad((expected * upstream).sum(), exact)
    torch.testing.assert_close(grad.double(), grad64, rtol=0, atol=1e-5)
    impl = pytest.importorskip("gsplat.cuda._torch_impl")
    theirs = impl._spherical_harmonics(degree, (means - center).double(), sh.double())
    visible = radii[:, 0] > 0
    # Both in float64; the closed forms' constants carry about 16 digits.
    torch.testing.assert_close(expected[visible], theirs[visible], rtol=0, atol=1e-9)
