"""Values exactly at, just below and just above every threshold (``kernels/README.md``).

Centres lie exactly on pixel centres, where sigma is zero and alpha is the opacity to the last bit,
so each rule can be met to the last bit too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat.rasterize import Rendering, rasterize, view_weights

pytestmark = pytest.mark.usefixtures("isa")

FOCAL, SIDE = 16.0, 16  # powers of two: projecting below is exact in float32
K = torch.tensor([[FOCAL, 0, 8.0], [0, FOCAL, 8.0], [0, 0, 1]])
ALPHA_MIN, ALPHA_MAX, T_MIN = (np.float32(v) for v in (1 / 255, 0.99, 1e-4))


def _at_pixels(x: Tensor, y: Tensor, z: float | Tensor = 2.0) -> Tensor:
    """World points that project exactly onto the centres of pixels (x, y)."""
    z = z * torch.ones_like(x)
    return torch.stack([(x + 0.5 - 8) * z / FOCAL, (y + 0.5 - 8) * z / FOCAL, z], 1)


def _stack(opacities: list[float] | Tensor, z: float | Tensor = 2.0) -> Gaussians:
    """Gaussians about a pixel wide, all on the centre of pixel (5, 9)."""
    opacities = torch.as_tensor(opacities, dtype=torch.float32)
    count = len(opacities)
    return Gaussians(
        means=_at_pixels(torch.full((count,), 5.0), torch.full((count,), 9.0), z),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.full((count, 3), 0.05),
        opacities=opacities,
        sh=torch.zeros(count, 1, 3),
    )


def _render(g: Gaussians, values: Tensor, **options: float) -> Rendering:
    return rasterize(
        g.means, g.quats, g.scales, g.opacities, values, torch.eye(4), K, SIDE, SIDE, **options
    )


def _weights(opacities: list[float] | Tensor) -> Tensor:
    """``[N]`` weights at the pixel on which all centres lie."""
    g = _stack(opacities)
    return _render(g, torch.eye(len(g))).values[9, 5]


def _step(value: np.float32, towards: float) -> float:
    return float(np.nextafter(value, np.float32(towards)))


def test_alpha_at_one_255th() -> None:
    below, at, above = _step(ALPHA_MIN, 0), float(ALPHA_MIN), _step(ALPHA_MIN, 1)
    assert _weights([below]).tolist() == [0]
    assert _weights([at]).tolist() == [at]
    assert _weights([above]).tolist() == [above]
    # One that does not count neither hides what is behind it nor adds to alpha.
    assert _weights([below, 0.5]).tolist() == [0, 0.5]


@pytest.mark.parametrize("opacity", [0.0, 0.001, 0.0039, -0.5])
def test_fainter_than_one_255th(opacity: float) -> None:
    out = _render(_stack([opacity]), torch.ones(1, 3))
    assert (out.values == 0).all() and (out.alphas == 0).all() and (out.radii == 0).all()


@pytest.mark.parametrize("share", [1 - 1e-5, 1 + 1e-5])
def test_alpha_at_one_255th_beside_the_centre(share: float) -> None:
    """The same where alpha comes from the exponential, whose error is far below 1e-5."""
    g = _stack([0.5])
    variance = (0.05 * FOCAL / 2) ** 2 + 0.3  # of the linearisation at the centre
    # Three pixels aside the off-centre terms of the Jacobian matter: measure, then aim.
    shape = _render(g, torch.ones(1, 1)).values[..., 0].double()
    ratio = shape[9, 7] / shape[9, 5]
    assert abs(float(torch.log(ratio)) + 4 / (2 * variance)) < 0.1
    g = _stack([float(ALPHA_MIN / ratio * share)])
    got = float(_render(g, torch.ones(1, 1)).values[9, 7, 0])
    assert got == pytest.approx(float(ALPHA_MIN), rel=2e-5) if share > 1 else got == 0


def test_alpha_at_its_limit() -> None:
    below, at, above = _step(ALPHA_MAX, 0), float(ALPHA_MAX), _step(ALPHA_MAX, 1)
    for opacity, expected, slope in (
        (below, below, 1), (at, at, 1), (above, at, 0), (1.0, at, 0),
    ):  # fmt: skip
        g = _stack([opacity])
        leaf = g.opacities.clone().requires_grad_()
        out = rasterize(
            g.means, g.quats, g.scales, leaf, torch.ones(1, 1), torch.eye(4), K, SIDE, SIDE
        )
        assert out.values[9, 5, 0].item() == expected
        assert out.alphas[9, 5].item() == pytest.approx(expected, rel=1e-6)  # 1 - (1 - alpha)
        (grad,) = torch.autograd.grad(out.values[9, 5, 0], leaf)
        assert grad.item() == pytest.approx(slope, rel=1e-6)


def test_stop_at_exactly_1e_4() -> None:
    """T = 2^-13 before the last one, whose factor takes it to 1e-4 to the last bit."""
    factor = T_MIN * np.float32(2**13)
    assert (1 - (1 - factor)) * np.float32(2**-13) == T_MIN  # all exact in float32
    at = float(1 - factor)
    halves = [0.5] * 13
    assert _weights([*halves, at])[-1] == 0  # T would be 1e-4: stop before it
    fainter = at - 2.0**-23  # two steps of 1 - alpha
    assert _weights([*halves, fainter])[-1] == pytest.approx(fainter * 2**-13, rel=1e-6)


def test_nothing_counts_after_the_stop() -> None:
    """The third would take T from 2e-4 to 8e-5; the fourth would fit, but the pixel is done."""
    opacities = [0.99, 0.98, 0.6, 0.1]
    weights = _weights(opacities)
    torch.testing.assert_close(weights, torch.tensor([0.99, 0.0098, 0, 0]), rtol=1e-5, atol=0)
    g = _stack(opacities)
    left = 1 - _render(g, torch.ones(4, 1)).alphas[9, 5].item()
    assert left == pytest.approx(2e-4, rel=1e-3)  # of 1 - alpha in float32


def test_near_and_far_plane_are_exclusive() -> None:
    z = torch.tensor([0.25, _step(np.float32(0.25), 1), 4.0, _step(np.float32(4), 0)])
    g = _stack([0.5] * 4, z)
    out = _render(g, torch.ones(4, 1), near_plane=0.25, far_plane=4.0)
    assert (out.radii[0, :, 0] > 0).tolist() == [False, True, False, True]


def test_ties_keep_the_lower_id_among_many() -> None:
    """Three depths for 3000 Gaussians in random order: (depth, id), front to back."""
    rng = torch.Generator().manual_seed(0)
    z = torch.tensor([1.0, 2.0, 4.0])[torch.randint(3, (3000,), generator=rng)]
    g = _stack(torch.full((3000,), 0.5), z)
    values = torch.randn(3000, 3, generator=rng)
    front = torch.nonzero(z == 1.0)[:13, 0]  # the fourteenth would leave 2^-14 < 1e-4
    weights = 0.5 ** torch.arange(1.0, 14.0)
    # Sums of thirteen float32 terms; any other order differs in the first digit.
    torch.testing.assert_close(
        _render(g, values).values[9, 5], weights @ values[front], rtol=0, atol=1e-6
    )


def test_more_than_65535_in_one_tile() -> None:
    """Positions in a list do not fit 16 bits; the last of them counts like the first."""
    count = 70_000
    pixel = torch.arange(count) % (SIDE * SIDE)
    g = Gaussians(
        means=_at_pixels((pixel % SIDE).float(), (pixel // SIDE).float()),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.full((count, 3), 1e-4),
        opacities=torch.full((count,), 0.004),  # only the pixel under the centre: 1.02 / 255
        sh=torch.zeros(count, 1, 3),
    )
    rng = torch.Generator().manual_seed(1)
    values = torch.randn(count, 2, generator=rng)
    weights = view_weights(g, torch.eye(4), K, SIDE, SIDE)
    alpha = float(np.float32(0.004))
    turn = (torch.arange(count) // (SIDE * SIDE)).double()  # how many lie in front
    expected = alpha * (1 - alpha) ** turn
    image = torch.zeros(SIDE * SIDE, 2, dtype=torch.float64)
    image.index_add_(0, pixel, expected[:, None] * values.double())
    # Sums of 273 float32 terms.
    torch.testing.assert_close(
        weights.apply(values).double().reshape(-1, 2), image, rtol=0, atol=1e-6
    )
    columns = weights.apply_t(torch.ones(SIDE, SIDE, 1))[:, 0].double()
    torch.testing.assert_close(columns, expected, rtol=1e-4, atol=0)  # T after 273 factors


@pytest.mark.parametrize("dim", range(1, 18))
def test_every_channel_is_the_same_sum(dim: int) -> None:
    """Whatever the width, a channel is what it is alone."""
    rng = torch.Generator().manual_seed(dim)
    g = _stack(torch.rand(30, generator=rng))
    values, maps = torch.randn(30, dim, generator=rng), torch.randn(16, 16, dim, generator=rng)
    weights = view_weights(g, torch.eye(4), K, SIDE, SIDE)
    out, back = weights.apply(values), weights.apply_t(maps)
    for c in range(dim):
        one = weights.apply(values[:, c : c + 1].contiguous())
        torch.testing.assert_close(out[..., c : c + 1], one, rtol=0, atol=1e-6)  # fused or not
        one = weights.apply_t(maps[..., c : c + 1].contiguous())
        torch.testing.assert_close(back[:, c : c + 1], one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e8])
def test_a_gaussian_wider_than_the_picture_covers_it(size: float) -> None:
    """The determinant of its conic is far below float32's relative precision, even its range."""
    g = _stack([0.5])
    g = Gaussians(g.means, g.quats, torch.full((1, 3), size), g.opacities, g.sh)
    out = _render(g, torch.ones(1, 1))
    torch.testing.assert_close(out.alphas, torch.full((SIDE, SIDE), 0.5), rtol=0, atol=1e-5)
