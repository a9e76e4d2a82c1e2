"""The first Gaussians, on surfaces that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import SH_C0
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.lifting.initialise import (
    _thin,
    backproject,
    fuse_depth,
    gaussians_from_points,
    neighbour_distance,
    random_points,
)
from fit3d_cli.lifting.views import Frames

F64 = torch.float64
NORMAL, OFFSET = torch.tensor([0.2, -0.1, 1.0], dtype=F64), 3.0  # the plane n.x = 3
WIDTH, HEIGHT = 40, 30


def cameras(count: int = 3) -> Cameras:
    """Looking at the plane from below, principal point off the middle."""
    eyes = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=F64) * 0.4
    targets = eyes * 0.5 + torch.tensor([0.1, 0.2, 3.0], dtype=F64)
    K = torch.tensor([[35.0, 0, 17.5], [0, 33.0, 18.0], [0, 0, 1]], dtype=F64)
    return Cameras(
        look_at(eyes, targets, torch.tensor([0.0, -1, 0], dtype=F64)),
        K.repeat(count, 1, 1),
        torch.tensor([[WIDTH, HEIGHT]]).repeat(count, 1),
    )


def pixel_centres() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([columns, rows], -1).reshape(-1, 2).to(F64) + 0.5


def plane_depth(camera: Cameras) -> Tensor:
    """``[H, W]`` z of the plane at the pixel centres, from ray and plane."""
    pixels = pixel_centres()
    K = camera.Ks[0]
    rays = torch.stack(
        [(pixels[:, 0] - K[0, 2]) / K[0, 0], (pixels[:, 1] - K[1, 2]) / K[1, 1],
         torch.ones(len(pixels), dtype=F64)], 1,
    ) @ camera.viewmats[0, :3, :3]  # fmt: skip
    z = (OFFSET - camera.centers[0] @ NORMAL) / (rays @ NORMAL)
    return z.reshape(HEIGHT, WIDTH)


def plane_frames(count: int = 3) -> Frames:
    seen = cameras(count)
    red = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    red[..., 0] = 255
    return Frames(
        tuple(red for _ in range(count)),
        tuple(plane_depth(seen[i]).float() for i in range(count)),
        tuple(torch.ones(HEIGHT, WIDTH, dtype=torch.bool) for _ in range(count)),
        seen,
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def project(camera: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels and depth, written out."""
    local = points @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3]
    K = camera.Ks[0]
    x = K[0, 0] * local[:, 0] / local[:, 2] + K[0, 2]
    y = K[1, 1] * local[:, 1] / local[:, 2] + K[1, 2]
    return torch.stack([x, y], 1), local[:, 2]


def test_backprojection_inverts_projection() -> None:
    camera = cameras()[1]
    pixels = torch.rand(50, 2, generator=generator(), dtype=F64) * torch.tensor([WIDTH, HEIGHT])
    depth = 0.5 + 4 * torch.rand(50, generator=generator(1), dtype=F64)
    back, z = project(camera, backproject(camera, pixels, depth))
    torch.testing.assert_close(back, pixels)
    torch.testing.assert_close(z, depth)


def test_fused_depth_lies_on_the_surface() -> None:
    frames = plane_frames()
    points, colors = fuse_depth(frames, [0, 1, 2], 200, generator())
    # Voxels average points of a plane, which stay on it; depth is float32 of about 3.
    assert (points @ NORMAL - OFFSET).abs().max() < 1e-5
    torch.testing.assert_close(colors, torch.tensor([1.0, 0, 0]).expand(len(points), 3))
    # All of the seen surface is covered: no pixel is far from a point.
    everything = backproject(
        frames.cameras[0], pixel_centres(), plane_depth(frames.cameras[0]).flatten()
    )
    gaps = torch.cdist(everything, points).amin(1)
    span = (everything.amax(0) - everything.amin(0)).norm()
    assert float(gaps.max()) < 0.15 * float(span)


@pytest.mark.parametrize("count", [1, 7, 100, 3000, 100_000])
def test_fused_depth_never_exceeds_the_count(count: int) -> None:
    points, colors = fuse_depth(plane_frames(), [0, 2], count, generator())
    assert 0 < len(points) <= count
    assert len(points) == len(colors)
    if 7 <= count <= 300:
        assert len(points) > 0.6 * count, "the voxels are larger than they need be"


def test_fusing_ignores_masked_unknown_and_held_out_pixels() -> None:
    frames = plane_frames()
    depths = [d.clone() for d in frames.depths if d is not None]
    depths[0][:, :20] = 0  # unknown
    depths[0][:5] = 50.0  # wrong, but masked
    depths[1][:] = 70.0  # wrong, but held out
    masks = [m.clone() for m in frames.masks]
    masks[0][:5] = False
    changed = Frames(frames.images, tuple(depths), tuple(masks), frames.cameras)
    points, _ = fuse_depth(changed, [0], 500, generator())
    assert (points @ NORMAL - OFFSET).abs().max() < 1e-5
    pixels, _ = project(frames.cameras[0], points)
    assert pixels[:, 0].min() > 20 and pixels[:, 1].min() > 5


def test_fusing_nothing_gives_nothing() -> None:
    frames = plane_frames(2)
    blind = Frames(frames.images, (None, torch.zeros(HEIGHT, WIDTH)), frames.masks, frames.cameras)
    points, colors = fuse_depth(blind, [0, 1], 100, generator())
    assert points.shape == (0, 3) and colors.shape == (0, 3)


def test_fusing_is_repeatable_and_seeded() -> None:
    frames = plane_frames()
    first, again, other = (fuse_depth(frames, [0, 1, 2], 100, generator(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_points_are_in_the_frusta_uniform_in_inverse_depth() -> None:
    seen = cameras()
    points, colors = random_points(seen, 3000, generator())
    near, far = 0.1 * seen.extent, 5 * seen.extent
    inside = torch.zeros(3000, dtype=torch.bool)
    owned = torch.zeros(3, dtype=torch.int64)
    for index in range(3):
        pixels, z = project(seen[index], points)
        visible = (
            (pixels >= -1e-6).all(1) & (pixels <= torch.tensor([WIDTH, HEIGHT]) + 1e-6).all(1)
            & (z >= near - 1e-9) & (z <= far + 1e-9)
        )  # fmt: skip
        owned[index] = visible.sum()
        inside |= visible
    assert inside.all()
    assert (owned > 900).all(), "some camera got far less than its third"
    assert (colors == 0.5).all()
    alone, _ = random_points(seen[0], 4000, generator(1))
    near, far = 0.1e-3, 5e-3  # one camera has no extent; a thousandth stands in
    inverse = 1 / project(seen[0], alone)[1]
    share = (inverse - 1 / far) / (1 / near - 1 / far)
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand samples.
    steps = torch.arange(4000, dtype=F64) / 4000
    assert float((share.sort().values - steps).abs().max()) < 1.95 / 4000**0.5


def brute_force_distance(points: Tensor) -> Tensor:
    distances = torch.cdist(points.double(), points.double())
    distances.fill_diagonal_(float("inf"))
    nearest = distances.sort(1).values[:, :3]
    result = nearest.square().mean(1).sqrt()
    return result.clamp_max(10 * result.median())


def test_neighbour_distance_against_brute_force() -> None:
    points = torch.randn(700, 3, generator=generator()) + 5
    points[0] = 100.0  # an outlier is limited to ten medians
    found = neighbour_distance(points)
    # The matrix form of the distances loses digits to cancellation.
    torch.testing.assert_close(found.double(), brute_force_distance(points), rtol=1e-3, atol=1e-4)
    assert float(found[0]) == pytest.approx(10 * float(found.median()), rel=1e-5)


def test_neighbour_distance_beyond_the_window() -> None:
    points = torch.rand(6000, 3, generator=generator()) * torch.tensor([4.0, 1.0, 1.0])
    picked = torch.randperm(6000, generator=generator(1))[:300]
    nearest = torch.cdist(points[picked].double(), points.double()).topk(4, largest=False).values
    true = nearest[:, 1:].square().mean(1).sqrt()
    found = neighbour_distance(points)[picked].double()
    # More points than the window holds: what it misses can only make the distance larger.
    assert (found > true - 1e-3).all()
    assert float((found / true).mean()) < 1.01


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_points_for_neighbours(count: int) -> None:
    distance = neighbour_distance(torch.zeros(count, 3))
    assert torch.equal(distance, torch.full((count,), 0.01))


@pytest.mark.parametrize("count", [1, 2, 50, 400])
def test_thinning_keeps_the_count_and_the_middle(count: int) -> None:
    points = torch.rand(2000, 3, generator=generator(), dtype=F64)
    colors = torch.rand(2000, 3, generator=generator(1))
    thinned, shades = _thin(points, colors, count)
    assert 0 < len(thinned) <= count and len(shades) == len(thinned)
    if count >= 50:
        assert len(thinned) > 0.6 * count
        assert (thinned >= points.amin(0)).all() and (thinned <= points.amax(0)).all()
        # Averages of evenly spread points: their mean is the middle, but for the last row of
        # voxels, which is cut off by the end of the points.
        assert (thinned.mean(0) - points.mean(0)).abs().max() < 0.15


def test_thinning_survives_strays_and_twins() -> None:
    points = torch.rand(1000, 3, generator=generator(), dtype=F64)
    points[0] = 1e7  # one stray point must not make voxels of its size
    thinned, _ = _thin(points, torch.zeros(1000, 3), 100)
    assert 50 < len(thinned) <= 100
    twins, colors = _thin(torch.ones(500, 3, dtype=F64), torch.full((500, 3), 0.25), 10)
    torch.testing.assert_close(twins, torch.ones(1, 3, dtype=F64))
    torch.testing.assert_close(colors, torch.full((1, 3), 0.25))


@pytest.mark.parametrize(("degree", "coefficients"), [(0, 1), (1, 4), (3, 16)])
def test_gaussians_from_points(degree: int, coefficients: int) -> None:
    points = torch.rand(80, 3, generator=generator(), dtype=F64)
    colors = torch.rand(80, 3, generator=generator(1))
    made = gaussians_from_points(points, colors, 200, sh_degree=degree, surface=False)
    assert made.sh.shape == (80, coefficients, 3)
    torch.testing.assert_close(made.means, points.float())
    torch.testing.assert_close(made.sh[:, 0] * SH_C0 + 0.5, colors)
    assert (made.sh[:, 1:] == 0).all()
    assert torch.equal(made.scales, neighbour_distance(made.means)[:, None].expand(80, 3))
    surface = gaussians_from_points(points, colors, 200, sh_degree=degree, surface=True)
    assert float(surface.opacities[0]) > float(made.opacities[0]) > 0
    assert len(gaussians_from_points(points, colors, 30, sh_degree=0, surface=True)) <= 30
