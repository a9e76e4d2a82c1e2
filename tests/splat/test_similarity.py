"""The fused SSIM against its reference, and the reference against the definition."""

import pytest
import torch

from fit3d_cli.splat.similarity import ssim_map, weighted_ssim, window


@pytest.mark.parametrize("size", [(37, 53), (11, 11), (3, 4), (1, 1), (1, 40)])
def test_equals_reference(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(*size, 3, generator=generator, requires_grad=True)
    second = torch.rand(*size, 3, generator=generator)
    weights = torch.rand(*size, generator=generator)
    fused = weighted_ssim(first, second, weights)
    (gradient,) = torch.autograd.grad(fused, first)
    wide = first.detach().double().requires_grad_()
    exact = (ssim_map(wide, second.double()) * weights.double()).sum()
    (expected,) = torch.autograd.grad(exact, wide)
    # float32 sums of up to 37 * 53 * 3 similarities of at most 1
    torch.testing.assert_close(fused.double(), exact, rtol=1e-5, atol=1e-5)
    # variances are differences of float32 blurs: about 1e-6 of values of a few units
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=2e-5)


def test_reference_is_the_definition_at_one_pixel() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 15, 15, 1, generator=generator, dtype=torch.float64)
    taps = window(torch.float64)
    weights = taps[:, None] * taps[None, :]
    a, b = x[2:13, 2:13, 0], y[2:13, 2:13, 0]
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    cov = (weights * (a - mean_a) * (b - mean_b)).sum()
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
    expected = expected / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
    torch.testing.assert_close(ssim_map(x, y)[0, 7, 7], expected)


def test_equal_pictures_and_threads() -> None:
    picture = torch.rand(40, 30, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weights = torch.ones(40, 30)
    total = weighted_ssim(picture, picture.detach(), weights)
    assert float(total.detach()) == pytest.approx(40 * 30 * 3, rel=1e-5)
    other = picture.detach().flip(0).contiguous()
    before = torch.get_num_threads()
    gradients = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        gradients.append(torch.autograd.grad(weighted_ssim(picture, other, weights), picture)[0])
    torch.set_num_threads(before)
    assert torch.equal(*gradients)
