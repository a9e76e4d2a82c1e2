import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.cameras import Cameras, orbit_cameras, stack_cameras
from fit3d_cli.geometry.rotations import look_at

F64 = torch.float64
UP = torch.tensor([0.0, 0, 1], dtype=F64)


def make(eyes: Tensor, targets: Tensor, width: int = 640, height: int = 480) -> Cameras:
    """Cameras with unequal focal lengths and an off-centre principal point."""
    K = torch.tensor([[500.0, 0, 300], [0, 520, 250], [0, 0, 1]], dtype=F64)
    count = len(eyes)
    return Cameras(
        look_at(eyes, targets, UP), K.repeat(count, 1, 1),
        torch.tensor([[width, height]]).repeat(count, 1),
    )  # fmt: skip


def ring(count: int, radius: float, height: float = 1.5) -> Tensor:
    angles = torch.arange(count, dtype=F64) * (2 * torch.pi / count)
    heights = torch.full_like(angles, height)
    return torch.stack([radius * angles.cos(), radius * angles.sin(), heights], 1)


def project(cameras: Cameras, points: Tensor) -> Tensor:
    """``[C, M, 2]`` pixels."""
    local = points @ cameras.viewmats[:, :3, :3].transpose(1, 2) + cameras.viewmats[:, None, :3, 3]
    pixels = local @ cameras.Ks.transpose(1, 2)
    return pixels[..., :2] / pixels[..., 2:]


def test_centers_and_camtoworlds_agree() -> None:
    eyes = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    cameras = make(eyes, eyes + torch.tensor([1.0, 2, 0.3], dtype=F64))
    torch.testing.assert_close(cameras.centers, eyes)
    torch.testing.assert_close(cameras.camtoworlds[:, :3, 3], eyes)
    torch.testing.assert_close(
        cameras.camtoworlds @ cameras.viewmats, torch.eye(4, dtype=F64).expand(5, 4, 4)
    )


def test_extent_is_that_of_3dgs() -> None:
    cameras = make(ring(8, 2.0), torch.zeros(8, 3, dtype=F64))
    assert cameras.extent == pytest.approx(1.1 * 2.0)


def test_resizing_scales_pixel_coordinates_linearly() -> None:
    cameras = make(ring(3, 2.0), torch.zeros(3, 3, dtype=F64))
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=F64) - 0.5
    small = cameras.resized(224, 154)
    scale = torch.tensor([224 / 640, 154 / 480], dtype=F64)
    torch.testing.assert_close(project(small, points), project(cameras, points) * scale)
    assert small.sizes.tolist() == [[224, 154]] * 3
    # The picture's corners are the same rays, which a half-pixel mistake would move.
    for corner in ((0.0, 0.0), (1.0, 1.0)):
        rays = [
            torch.linalg.inv(c.Ks) @ torch.cat([c.sizes[0] * torch.tensor(corner), torch.ones(1)])
            .to(F64)
            for c in (cameras, small)
        ]  # fmt: skip
        torch.testing.assert_close(rays[0], rays[1])
    assert torch.equal(cameras.Ks[0, 0, 0], torch.tensor(500.0, dtype=F64)), "changed in place"
    back = small.resized(640, 480)
    torch.testing.assert_close(back.Ks, cameras.Ks)


def test_resizing_cameras_of_different_sizes() -> None:
    eyes, targets = ring(2, 2.0), torch.zeros(2, 3, dtype=F64)
    both = stack_cameras([make(eyes[:1], targets[:1]), make(eyes[1:], targets[1:], 320, 480)])
    small = both.resized(64, 48)
    assert small.Ks[0, 0, 0] == pytest.approx(50)
    assert small.Ks[1, 0, 0] == pytest.approx(100)


def test_indexing_keeps_the_leading_dimension() -> None:
    cameras = make(ring(6, 2.0), torch.zeros(6, 3, dtype=F64))
    assert len(cameras[2]) == 1
    assert torch.equal(cameras[2].viewmats[0], cameras.viewmats[2])
    assert torch.equal(cameras[[3, 1]].viewmats, cameras.viewmats[torch.tensor([3, 1])])
    assert len(cameras[slice(None, None, 2)]) == 3
    joined = stack_cameras([cameras[i] for i in range(6)])
    assert torch.equal(joined.viewmats, cameras.viewmats)
    with pytest.raises(ValueError, match="Ks"):
        Cameras(cameras.viewmats, cameras.Ks[:2], cameras.sizes)


def test_orbit_looks_where_the_cameras_look_and_stays_inside() -> None:
    target = torch.tensor([0.3, -0.2, 1.0], dtype=F64)
    cameras = make(ring(12, 2.0) + target, target.expand(12, 3))
    path = orbit_cameras(cameras, 24)
    assert len(path) == 24
    middle = cameras.centers.mean(0)
    distance = (path.centers - middle).norm(dim=1)
    # 0.6 standard deviations times sqrt(2): on a circle, 0.6 of the radius.
    torch.testing.assert_close(distance, torch.full((24,), 1.2, dtype=F64))
    torch.testing.assert_close(path.centers.mean(0), middle)
    assert (path.centers[:, 2] - middle[2]).abs().max() < 1e-9
    axes = path.viewmats[:, 2, :3]
    wanted = torch.nn.functional.normalize(target - path.centers, dim=1)
    # The small pull to a point ahead moves the target a little.
    assert (axes * wanted).sum(1).min() > 0.999
    # One turn: all angles are there, and the last frame is one step before the first.
    steps = (path.centers - path.centers.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(24))
    assert (path.viewmats[:, 1, 2] < 0).all(), "world up is not up in the pictures"
    assert path.sizes.tolist() == cameras.sizes[:1].tolist() * 24


def test_an_orbit_inside_a_room_looks_outwards_as_the_cameras_do() -> None:
    offsets = ring(16, 1.0)
    cameras = make(offsets, 5 * offsets)
    path = orbit_cameras(cameras, 12)
    # The cameras stand on a circle around the z axis and look up or down too: compare headings.
    axes, outwards = path.viewmats[:, 2, :2], (path.centers - cameras.centers.mean(0))[:, :2]
    cosine = torch.nn.functional.cosine_similarity(axes, outwards, dim=1)
    assert cosine.min() > 0.95


@pytest.mark.parametrize("count", [2, 3])
def test_orbit_of_few_and_parallel_cameras_is_finite(count: int) -> None:
    eyes = torch.arange(count, dtype=F64)[:, None] * torch.tensor([1.0, 0, 0], dtype=F64)
    cameras = make(eyes, eyes + torch.tensor([0.0, 5, 0], dtype=F64))
    path = orbit_cameras(cameras, 5)
    assert torch.isfinite(path.viewmats).all()
    inside = (path.centers[:, 0] >= 0) & (path.centers[:, 0] <= count - 1)
    assert inside.all()
    assert (path.viewmats[:, 2, 1] > 0.5).all(), "looks away from where the cameras look"
