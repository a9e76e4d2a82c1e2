"""Triangulation on keypoints that were projected from known points."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.capture.base import Distortion, View
from fit3d_cli.capture.read import read_capture, spread
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.images import save_png
from fit3d_cli.lifting import triangulate as module
from fit3d_cli.lifting.triangulate import _epipolar, _intersect, _Rays, _rays, _tracks, triangulate
from fit3d_cli.progress import ignore

F64 = torch.float64
POINTS, VIEWS = 60, 4
Edges = list[tuple[int, int, Tensor]]


@dataclass(frozen=True)
class World:
    points: Tensor  # [60, 3]
    views: list[View]
    rays: list[_Rays]
    order: list[Tensor]  # keypoint k of view v shows point order[v][k]

    def matches(self, first: int, second: int) -> Tensor:
        """All true matches of a pair, ``[60, 2]`` keypoints."""
        return torch.stack([torch.argsort(self.order[first]), torch.argsort(self.order[second])], 1)

    def edges(self) -> Edges:
        pairs = [(a, b) for a in range(VIEWS) for b in range(a + 1, VIEWS)]
        return [(a, b, self.matches(a, b)) for a, b in pairs]


def project(view: View, points: Tensor) -> Tensor:
    local = points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    pixels = local @ view.K.T
    return pixels[:, :2] / pixels[:, 2:]


@pytest.fixture
def world() -> World:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, 3, generator=generator, dtype=F64) * 2 - 1
    angles = torch.arange(VIEWS, dtype=F64) * 0.3
    eyes = torch.stack([4 * angles.sin(), 0.2 * angles, -4 * angles.cos()], 1)
    viewmats = look_at(eyes, torch.zeros(VIEWS, 3, dtype=F64), torch.tensor([0.0, -1, 0]).to(F64))
    K = torch.tensor([[300.0, 0, 150], [0, 310, 110], [0, 0, 1]], dtype=F64)
    views = [View(f"{i}.png", Path(f"{i}.png"), viewmats[i], K, 320, 240) for i in range(VIEWS)]
    order = [torch.randperm(POINTS, generator=generator) for _ in range(VIEWS)]
    rays = [
        _rays(view, project(view, points[shown]).numpy())
        for view, shown in zip(views, order, strict=True)
    ]
    return World(points, views, rays, order)


def nearest(found: Tensor, points: Tensor) -> Tensor:
    """Distance of each found point to the nearest true one."""
    exact = "donot_use_mm_for_euclid_dist"  # the other form cancels digits
    return torch.cdist(found, points, compute_mode=exact).amin(1)


def test_rays_undo_projection_and_distortion(world: World) -> None:
    view = world.views[1]
    center = module._center(view)
    towards = torch.nn.functional.normalize(world.points[world.order[1]] - center, dim=1)
    torch.testing.assert_close(world.rays[1].directions, towards)
    # With a lens: distort by the published polynomial (k1, p1), then undo.
    k1, p1 = -0.12, 0.01
    bent = View(
        view.name,
        view.image_path,
        view.viewmat,
        view.K,
        320,
        240,
        Distortion("opencv", (k1, 0, p1)),
    )
    straight = project(view, world.points)
    focal, middle = view.K.diagonal()[:2], view.K[:2, 2]
    x, y = ((straight - middle) / focal).unbind(1)
    r2 = x * x + y * y
    distorted = torch.stack(
        [x * (1 + k1 * r2) + 2 * p1 * x * y, y * (1 + k1 * r2) + p1 * (r2 + 2 * y * y)], 1
    )
    rays = _rays(bent, (distorted * focal + middle).numpy())
    towards = torch.nn.functional.normalize(world.points - center, dim=1)
    torch.testing.assert_close(rays.directions, towards, rtol=0, atol=1e-6)


def test_true_matches_are_kept_and_wrong_ones_are_not(world: World) -> None:
    first, second = world.views[:2]
    true = world.matches(0, 1)
    kept = _epipolar(first, second, world.rays[0], world.rays[1], true)
    assert torch.equal(kept, true)
    wrong = torch.stack([true[:, 0], true[:, 1].roll(1)], 1)
    kept = _epipolar(first, second, world.rays[0], world.rays[1], wrong)
    # A wrong match survives only where the other point happens to lie on the epipolar line.
    pixels = [world.rays[v].pixels for v in (0, 1)]
    distance = epipolar_distance(first, second, pixels[0][wrong[:, 0]], pixels[1][wrong[:, 1]])
    assert len(kept) < 10
    assert (distance[(wrong[:, None] == kept[None]).all(2).any(1)] < 3).all()
    assert len(_epipolar(first, second, *world.rays[:2], true[:0])) == 0


def epipolar_distance(first: View, second: View, a: Tensor, b: Tensor) -> Tensor:
    """Pixels from ``b`` to the line of ``a``, by the fundamental matrix."""
    relative = second.viewmat @ torch.linalg.inv(first.viewmat)
    x, y, z = relative[:3, 3].tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=F64)
    F = torch.linalg.inv(second.K).T @ cross @ relative[:3, :3] @ torch.linalg.inv(first.K)
    ones = torch.ones(len(a), 1, dtype=F64)
    lines = torch.cat([a, ones], 1) @ F.T
    return (torch.cat([b, ones], 1) * lines).sum(1).abs() / lines[:, :2].norm(dim=1)


def test_tracks_join_the_matches_of_one_point(world: World) -> None:
    rows = _tracks(world.rays, world.edges())
    assert rows.shape == (POINTS * VIEWS, 3)
    for track in range(POINTS):
        mine = rows[rows[:, 0] == track]
        assert mine[:, 1].tolist() == list(range(VIEWS))
        shown = {int(world.order[v][k]) for _, v, k in mine.tolist()}
        assert len(shown) == 1


def test_tracks_do_not_depend_on_the_order_of_matches(world: World) -> None:
    edges = world.edges()
    rows = _tracks(world.rays, edges)
    generator = torch.Generator().manual_seed(1)
    shuffled = [
        (a, b, pairs[torch.randperm(len(pairs), generator=generator)])
        for a, b, pairs in reversed(edges)
    ]
    assert torch.equal(_tracks(world.rays, shuffled), rows)
    swapped = [(b, a, pairs.flip(1)) for a, b, pairs in edges]
    assert torch.equal(_tracks(world.rays, swapped), rows)


def test_a_track_that_visits_a_photo_twice_is_dropped(world: World) -> None:
    edges = world.edges()
    # Keypoint 0 of photo 0 is also matched to another point's keypoint in photo 1.
    wrong = int(world.matches(0, 1)[world.order[0][5], 1])
    edges.append((0, 1, torch.tensor([[0, wrong]])))
    rows = _tracks(world.rays, edges)
    assert len(rows) == (POINTS - 2) * VIEWS
    lost = {int(world.order[0][0]), int(world.order[0][5])}
    assert {int(world.order[v][k]) for _, v, k in rows.tolist()} == set(range(POINTS)) - lost


def test_unmatched_keypoints_make_no_track(world: World) -> None:
    rows = _tracks(world.rays, [(0, 2, world.matches(0, 2)[:7])])
    assert len(rows) == 14
    assert len(_tracks(world.rays, [])) == 0
    assert len(_intersect(world.views, world.rays, _tracks(world.rays, []))[0]) == 0


def test_points_are_recovered(world: World) -> None:
    found, photos, keypoints, tracks = _intersect(
        world.views, world.rays, _tracks(world.rays, world.edges())
    )
    assert len(found) == POINTS
    shown = torch.stack([
        world.points[world.order[v][k]]
        for v, k in zip(photos.tolist(), keypoints.tolist(), strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(found[tracks], shown, rtol=0, atol=1e-9)


def test_points_do_not_depend_on_the_order_of_photos(world: World) -> None:
    found = _intersect(world.views, world.rays, _tracks(world.rays, world.edges()))[0]
    turned = [3, 1, 0, 2]
    place = {old: new for new, old in enumerate(turned)}
    edges = [(place[a], place[b], pairs) for a, b, pairs in world.edges()]
    other = _intersect(
        [world.views[i] for i in turned],
        rays := [world.rays[i] for i in turned],
        _tracks(rays, edges),
    )[0]
    assert len(other) == len(found)
    assert nearest(other, found).max() < 1e-9


def test_noise_moves_points_little_and_outliers_are_rejected(world: World) -> None:
    generator = torch.Generator().manual_seed(2)
    noisy = []
    for view, rays in zip(world.views, world.rays, strict=True):
        pixels = rays.pixels + 0.3 * torch.randn(POINTS, 2, generator=generator, dtype=F64)
        if view is world.views[2]:
            pixels[:10] += 12.0  # ten keypoints that are plainly wrong
        noisy.append(_rays(view, pixels.numpy()))
    found, photos, keypoints, _ = _intersect(world.views, noisy, _tracks(noisy, world.edges()))
    outliers = set(world.order[2][:10].tolist())
    shown = {int(world.order[v][k]) for v, k in zip(photos, keypoints, strict=True)}
    assert not shown & outliers
    assert len(found) >= 45
    # A third of a pixel at 4 units and focal length 300 is 4 mm; depth is worse.
    assert nearest(found, world.points).max() < 0.05


def test_rays_that_are_almost_parallel_give_no_point(world: World) -> None:
    near = world.views[0]
    viewmat = near.viewmat.clone()
    viewmat[0, 3] -= 0.01  # a baseline of a centimetre at four metres: 0.0025 radians
    twin = View("t.png", Path("t.png"), viewmat, near.K, 320, 240)
    pixels = [project(v, world.points) for v in (near, twin)]
    rays = [_rays(v, p.numpy()) for v, p in zip((near, twin), pixels, strict=True)]
    pairs = torch.arange(POINTS)[:, None].expand(-1, 2)
    assert len(_intersect([near, twin], rays, _tracks(rays, [(0, 1, pairs)]))[0]) == 0


def test_points_behind_a_camera_are_rejected(world: World) -> None:
    # Opposite directions: the lines meet at the points, the rays do not.
    mirrored = [_Rays(r.pixels, -r.directions) for r in world.rays]
    assert len(_intersect(world.views, mirrored, _tracks(mirrored, world.edges()))[0]) == 0


def test_photos_without_texture_are_an_error(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap")
    root = Path(shutil.copytree(room, tmp_path / "blank"))
    blank = torch.full((48, 64, 3), 128, dtype=torch.uint8).numpy()
    for path in sorted(root.glob("*.color.png")):
        save_png(path, blank)
    capture = spread(read_capture(root), 3)
    with pytest.raises(CaptureError, match=r"only 0 points .* from 3 photos .*init=random"):
        triangulate(capture, [0, 1, 2], ignore)
    monkeypatch.setattr(module, "can_triangulate", lambda: False)
    with pytest.raises(module.EnvironmentFault, match="pycolmap") as error:
        triangulate(capture, [0, 1, 2], ignore)
    assert error.value.exit_code == 3


@pytest.mark.realdata
def test_real_photos_twice_give_the_same_points(realdata: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    fox = realdata / "fox"
    if not fox.is_dir():
        pytest.skip("no fox")
    # Neighbours: six photos spread over the whole walk share too little.
    capture = read_capture(fox)
    near = list(range(6))
    first, second = (triangulate(capture, near, ignore) for _ in range(2))
    assert torch.equal(first.xyz, second.xyz)
    assert torch.equal(first.rgb, second.rgb)
    assert len(first.xyz) > 200
    # The points are where the photos look: they project into them, in front of the cameras.
    view = capture.views[0]
    local = first.xyz @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    assert (local[:, 2] > 0).float().mean() > 0.99
    assert len(first.rgb.unique(dim=0)) > 50
