from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fit3d_cli.lifting.losses import depth_loss, mean_ssim, photometric_loss, psnr


def pictures(height: int = 14, width: int = 17, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(height, width, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(height, width, 3, generator=generator, dtype=torch.float64)
    return first, (first + 0.1 * noise).clamp(0, 1)


def brute_force_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Wang et al. 2004, window by window: 11x11 Gaussian of 1.5 pixels, zeros outside."""
    height, width, _ = x.shape
    result = torch.zeros(3, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            mass = 0.0
            sums = torch.zeros(5, 3, dtype=torch.float64)
            for i in range(-5, 6):
                for j in range(-5, 6):
                    weight = math.exp(-(i * i + j * j) / (2 * 1.5**2))
                    mass += weight
                    if 0 <= row + i < height and 0 <= column + j < width:
                        a, b = x[row + i, column + j], y[row + i, column + j]
                        sums += weight * torch.stack([a, b, a * a, b * b, a * b])
            mx, my, xx, yy, xy = sums / mass
            result[:, row, column] = (
                (2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)
                / ((mx**2 + my**2 + 1e-4) * (xx - mx**2 + yy - my**2 + 9e-4))
            )  # fmt: skip
    return result


def exact_loss(rendered: Tensor, photo: Tensor, mask: Tensor, weight: float) -> Tensor:
    """The objective in float64 from dense window matrices, independent of the kernel."""

    def blur(size: int) -> Tensor:
        taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
        matrix = torch.zeros(size, size, dtype=torch.float64)
        for row in range(size):
            for offset, tap in zip(range(-5, 6), taps / taps.sum(), strict=True):
                if 0 <= row + offset < size:
                    matrix[row, row + offset] = tap
        return matrix

    down, right = blur(rendered.shape[0]), blur(rendered.shape[1])

    def mean(values: Tensor) -> Tensor:
        return torch.einsum("ij,jkc,lk->ilc", down, values, right)

    x, y = rendered * mask[..., None], photo * mask[..., None]
    mx, my = mean(x), mean(y)
    ssim = (2 * mx * my + 1e-4) * (2 * (mean(x * y) - mx * my) + 9e-4)
    ssim = ssim / ((mx**2 + my**2 + 1e-4) * (mean(x * x) - mx**2 + mean(y * y) - my**2 + 9e-4))
    l1 = (rendered - photo).abs()[mask].mean()
    return (1 - weight) * l1 + weight * (1 - ssim[mask].mean())


def everywhere(picture: Tensor) -> Tensor:
    return torch.ones(picture.shape[:2], dtype=torch.bool)


def test_mean_ssim_against_brute_force() -> None:
    x, y = pictures(12, 15)
    brute = brute_force_ssim(x, y)
    used = everywhere(x)
    # Variances are differences of float32 means: 1e-6 of values up to 1, in the mean far less.
    found = float(mean_ssim(x.float(), y.float(), used))
    assert found == pytest.approx(float(brute.mean()), abs=2e-6)
    used[:, :6] = False
    masked = brute_force_ssim(x * used[..., None], y * used[..., None])[:, used]
    assert float(mean_ssim(x.float(), y.float(), used)) == pytest.approx(
        float(masked.mean()), abs=2e-6
    )
    # The dense form that the gradient is checked with is the same function.
    assert float(exact_loss(x, y, used, 1.0)) == pytest.approx(1 - float(masked.mean()))


def test_ssim_of_equal_pictures_is_one() -> None:
    x, y = (picture.float() for picture in pictures())
    used = everywhere(x)
    assert float(mean_ssim(x, x, used)) == pytest.approx(1, abs=1e-6)
    assert float(mean_ssim(x, y, used)) == pytest.approx(float(mean_ssim(y, x, used)), abs=1e-6)
    assert float(mean_ssim(x, y, used)) < 0.99


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_photometric_gradient_by_finite_differences(weight: float) -> None:
    rendered, photo = pictures(9, 13)
    mask = everywhere(rendered)
    mask[2:4, 5:] = False
    single = rendered.float().requires_grad_(True)
    loss = photometric_loss(single, photo.float(), mask, weight)
    assert float(loss.detach()) == pytest.approx(
        float(exact_loss(rendered, photo, mask, weight)), abs=2e-6
    )
    loss.backward()
    assert single.grad is not None
    step = 1e-5
    for row in range(9):
        for column in range(0, 13, 2):
            channel = (row + column) % 3
            values = []
            for sign in (1, -1):
                moved = rendered.clone()
                moved[row, column, channel] += sign * step
                values.append(exact_loss(moved, photo, mask, weight))
            slope = float(values[0] - values[1]) / (2 * step)
            # Gradients are about 1 / (117 * 3) = 3e-3; float32 leaves four digits.
            found = float(single.grad[row, column, channel])
            assert found == pytest.approx(slope, abs=2e-6), (row, column)


def test_photometric_loss_is_the_mixture() -> None:
    x, y = pictures()
    used = everywhere(x)
    l1 = float((x - y).abs().mean())
    dissimilarity = float((1 - brute_force_ssim(x, y)).mean())
    x, y = x.float(), y.float()
    assert float(photometric_loss(x, y, used, 0.0)) == pytest.approx(l1, rel=1e-5)
    assert float(photometric_loss(x, y, used, 0.2)) == pytest.approx(
        0.8 * l1 + 0.2 * dissimilarity, rel=1e-5
    )
    assert float(photometric_loss(y, y, used, 0.2)) == pytest.approx(0, abs=1e-6)


def test_masked_pixels_have_no_influence() -> None:
    rendered, photo = (picture.float() for picture in pictures())
    mask = everywhere(rendered)
    mask[4:9, 6:12] = False
    loss = photometric_loss(rendered, photo, mask, 0.2)
    for changed in (0, 1):
        pair = [rendered.clone(), photo.clone()]
        pair[changed][~mask] = 0.123
        assert torch.equal(photometric_loss(*pair, mask, 0.2), loss)
        assert psnr(*pair, mask) == psnr(rendered, photo, mask)
        assert torch.equal(mean_ssim(*pair, mask), mean_ssim(rendered, photo, mask))
    # While a used pixel has: the loss is not blind.
    other = rendered.clone()
    other[0, 0] += 0.1
    assert not torch.equal(photometric_loss(other, photo, mask, 0.2), loss)
    rendered.requires_grad_(True)
    photometric_loss(rendered, photo, mask, 0.2).backward()
    assert rendered.grad is not None
    assert (rendered.grad[~mask] == 0).all()
    assert (rendered.grad[mask] != 0).any(-1).all()


def test_photometric_loss_is_a_mean_over_used_pixels() -> None:
    photo = torch.zeros(4, 6, 3)
    rendered = torch.full((4, 6, 3), 0.25)
    half = torch.zeros(4, 6, dtype=torch.bool)
    half[:2] = True
    assert float(photometric_loss(rendered, photo, half, 0.0)) == pytest.approx(0.25)


def test_a_view_that_is_masked_away_teaches_nothing() -> None:
    rendered = torch.full((4, 6, 3), 0.25, requires_grad=True)
    nothing = torch.zeros(4, 6, dtype=torch.bool)
    photometric_loss(rendered, torch.zeros(4, 6, 3), nothing, 0.2).backward()
    assert rendered.grad is not None
    assert torch.equal(rendered.grad, torch.zeros(4, 6, 3))
    assert psnr(rendered, torch.zeros(4, 6, 3), nothing) == 0


def test_psnr_by_hand() -> None:
    photo = torch.full((2, 2, 3), 0.5)
    rendered = photo + 0.1
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert psnr(rendered, photo, mask) == pytest.approx(20, abs=1e-4)
    bright = torch.full((2, 2, 3), 3.0)  # clamped to 1: an error of 0.5, 6.02 dB
    assert psnr(bright, photo, mask) == pytest.approx(-20 * math.log10(0.5), abs=1e-4)


def test_depth_loss_by_hand() -> None:
    depth = torch.tensor([[2.0, 4.0, 0.0]])
    alphas = torch.tensor([[1.0, 0.5, 1.0]])
    rendered = torch.tensor([[2.5, 2.0, 9.0]])  # 0.5 off; exact at half alpha; unknown
    assert float(depth_loss(rendered, alphas, depth, 2.0)) == pytest.approx(0.5 / 2 / 2)
    assert float(depth_loss(rendered, alphas, torch.zeros(1, 3), 2.0)) == 0


def test_depth_gradient_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    rendered, alphas, depth = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)
    depth[0, :2] = 0
    rendered.requires_grad_(True)
    alphas.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda r, a: depth_loss(r, a, depth, 1.7), (rendered, alphas), atol=1e-8
    )
    depth_loss(rendered, alphas, depth, 1.7).backward()
    assert rendered.grad is not None and (rendered.grad[0, :2] == 0).all()
