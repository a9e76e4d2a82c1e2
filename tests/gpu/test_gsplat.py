"""Our rasteriser against gsplat's on the same device.

Conventions are the same but for three points, and the tests keep away from the first: gsplat 1.5
clamps alpha at 0.999, ours at 0.99 (opacities stay below); it computes exponentials with fast
approximations; and its tile lists come from bounding boxes, which changes no value. A Gaussian
whose alpha is within rounding of 1/255 may count on one side only: such pixels are counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_cli.splat.rasterize import rasterize

pytestmark = pytest.mark.gpu

NAMES = ("means", "quats", "scales", "opacities", "values")
# Off by more than rounding (2e-4 of the largest value): at most this share of pixels and entries.
VALUE, SHARE = 2e-4, 2e-3


@pytest.fixture(scope="module")
def gsplat(device: torch.device) -> Any:
    """The module with its extension; the test is skipped where that does not compile."""
    module = pytest.importorskip("gsplat")
    try:
        from gsplat.cuda._backend import _C
    except Exception as error:
        pytest.skip(f"gsplat's extension cannot be built here: {error}")
    if _C is None:
        pytest.skip("gsplat found no CUDA toolkit to build its extension with")
    return module


def _theirs(gsplat: Any, crowd: Any, leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
    *geometry, values = leaves
    device = values.device
    image, alphas, _ = gsplat.rasterization(
        *geometry, values, crowd.viewmat[None].to(device), crowd.K[None].to(device),
        crowd.width, crowd.height, packed=False,
    )  # fmt: skip
    return image[0], alphas[0, ..., 0]


def _ours(crowd: Any, leaves: list[Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    out = rasterize(*leaves, *crowd.camera, **options)
    return out.values, out.alphas


def _leaves(crowd: Any, device: torch.device, dim: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(dim)
    values = torch.rand(len(crowd.gaussians), dim, generator=rng).to(device)
    return [t.clone().requires_grad_() for t in (*crowd.geometry(device), values)]


def _share_off(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs() > VALUE * b.abs().max()).float().mean())


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("dim", [1, 3, 32, 64, 128])
def test_values_and_gradients(
    gsplat: Any, crowd: Any, device: torch.device, dim: int, deterministic: bool
) -> None:
    rng = torch.Generator().manual_seed(1)
    v_values = torch.randn(crowd.height, crowd.width, dim, generator=rng).to(device)
    v_alphas = torch.randn(crowd.height, crowd.width, generator=rng).to(device)
    sides = []
    for ours in (True, False):
        leaves = _leaves(crowd, device, dim)
        if ours:
            image, alphas = _ours(crowd, leaves, deterministic=deterministic)
        else:
            image, alphas = _theirs(gsplat, crowd, leaves)
        loss = (image * v_values).sum() + (alphas * v_alphas).sum()
        sides.append((image, alphas, torch.autograd.grad(loss, leaves)))
    (image, alphas, grads), (image_g, alphas_g, grads_g) = sides
    assert float(alphas_g.mean()) > 0.3  # there is something to see
    assert _share_off(image, image_g) < SHARE
    assert _share_off(alphas, alphas_g) < SHARE
    for name, a, b in zip(NAMES, grads, grads_g, strict=True):
        assert _share_off(a, b) < SHARE, name
        assert float((a - b).norm() / b.norm()) < 0.01, name


def test_training_agrees(gsplat: Any, crowd: Any, device: torch.device) -> None:
    """Ten steps of gradient descent on RGB take both to the same loss."""
    target = torch.rand(crowd.height, crowd.width, 3, device=device)
    losses = []
    for ours in (True, False):
        leaves = _leaves(crowd, device, 3)
        seen = []
        for _ in range(10):
            image, _ = _ours(crowd, leaves) if ours else _theirs(gsplat, crowd, leaves)
            loss = (image - target).square().mean()
            grads = torch.autograd.grad(loss, leaves)
            with torch.no_grad():
                for leaf, grad in zip(leaves, grads, strict=True):
                    leaf -= 1e-3 * leaf.abs().mean() * grad / grad.abs().max()
                leaves[3].clamp_(0.01, 0.98)
            seen.append(float(loss))
        losses.append(torch.tensor(seen))
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)  # flips add up over steps
