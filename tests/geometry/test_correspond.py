"""Correspondences by depth: against exact rooms, analytic planes and awkward input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.correspond import (
    DepthMaps,
    grid_places,
    overlap,
    rotation_angle,
    transfer,
    unproject,
)
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.rooms import generate_room, render_room, room_intrinsics, room_path

WIDTH, HEIGHT, FINE = 48, 36, 3


@dataclass(frozen=True)
class World:
    """Three views of a room, coarse and three times finer; the fine ones tell the truth."""

    cameras: Cameras
    depths: list[Tensor]
    fine: list[Tensor]


@pytest.fixture(scope="module")
def world() -> World:
    room = generate_room(3)
    poses = room_path(room, 8)[[0, 1, 3]]
    K = room_intrinsics(WIDTH, HEIGHT)
    cameras = Cameras(
        torch.linalg.inv(torch.from_numpy(poses)),
        torch.from_numpy(K).repeat(3, 1, 1),
        torch.tensor([[WIDTH, HEIGHT]]).repeat(3, 1),
    )
    scale = np.diag([FINE, FINE, 1.0])
    fine = [
        torch.from_numpy(render_room(room, pose, scale @ K, FINE * WIDTH, FINE * HEIGHT).depth)
        for pose in poses
    ]
    # The centre of a coarse pixel is that of the middle one of its 3 x 3 fine ones.
    return World(cameras, [depth[1::FINE, 1::FINE] for depth in fine], fine)


def camera(
    eye: tuple[float, float, float], target: tuple[float, float, float],
    size: tuple[int, int] = (40, 30), focal: float = 30.0,
) -> Cameras:  # fmt: skip
    viewmats = look_at(
        torch.tensor([eye]).double(), torch.tensor([target]).double(), torch.tensor([0, -1.0, 0])
    )
    width, height = size
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).double()
    return Cameras(viewmats, K[None], torch.tensor([size]))


def plane_depth(view: Cameras, normal: tuple[float, float, float], offset: float) -> Tensor:
    """z of the plane ``normal . x = offset`` at the pixel centres of a camera."""
    width, height = view.sizes[0].tolist()
    places = torch.cat([
        grid_places(width, height) * view.sizes[0], torch.ones(width * height, 1).double()
    ], dim=1)  # fmt: skip
    rays = places @ torch.linalg.inv(view.Ks[0]).T @ view.viewmats[0, :3, :3]
    n = torch.tensor(normal).double()
    return ((offset - view.centers[0] @ n) / (rays @ n)).reshape(height, width)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (0, 2), (2, 0)])
def test_points_land_where_the_room_says(world: World, a: int, b: int) -> None:
    """At sub-pixel places too, whose depth the coarse map does not hold."""
    places = grid_places(FINE * WIDTH, FINE * HEIGHT)
    coarse = transfer(places, world.depths[a], world.cameras[a], world.depths[b], world.cameras[b],
                      tolerance=0.05)  # fmt: skip
    exact, known = unproject(
        places,
        DepthMaps.of([world.fine[a]], world.cameras[a].resized(FINE * WIDTH, FINE * HEIGHT)),
        0.0,
    )
    assert known.all()
    local = exact @ world.cameras.viewmats[b, :3, :3].T + world.cameras.viewmats[b, :3, 3]
    pixels = local @ world.cameras.Ks[b].T
    pixels = pixels[:, :2] / pixels[:, 2:]
    error = (coarse.places * world.cameras.sizes[b] - pixels).norm(dim=1)
    assert coarse.visible.double().mean() > 0.3
    assert error[coarse.visible].median() < 0.01
    assert (error[coarse.visible] < 0.5).double().mean() > 0.95  # the rest lies on depth edges
    flat = coarse.visible & _flat(world.depths[a], places)  # steps below 5 % count as flat
    assert (error[flat] < 0.5).double().mean() > 0.999
    # Where the fine pixel is the coarse one, nothing is interpolated: exact, edges included.
    centres = torch.zeros(FINE * HEIGHT, FINE * WIDTH, dtype=torch.bool)
    centres[1::FINE, 1::FINE] = True
    assert error[centres.reshape(-1) & coarse.visible].max() < 1e-4


@pytest.mark.parametrize(("a", "b"), [(0, 1), (0, 2), (2, 1)])
def test_hidden_points_are_rejected(world: World, a: int, b: int) -> None:
    places = grid_places(WIDTH, HEIGHT)
    moved = transfer(places, world.depths[a], world.cameras[a], world.depths[b], world.cameras[b],
                     tolerance=0.05)  # fmt: skip
    inside = ((moved.places >= 0) & (moved.places < 1)).all(1) & (moved.depth > 0)
    # The truth: the fine depths around the place, all clearly nearer or all at the point.
    fine = world.fine[b]
    column = (moved.places[:, 0] * FINE * WIDTH).long().clamp(1, FINE * WIDTH - 2)
    row = (moved.places[:, 1] * FINE * HEIGHT).long().clamp(1, FINE * HEIGHT - 2)
    around = torch.stack([fine[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    behind = inside & (around < 0.93 * moved.depth).all(0)
    shown = inside & ((around - moved.depth).abs() < 0.03 * moved.depth).all(0)
    assert behind.sum() > 10 and shown.sum() > 300
    assert not moved.visible[behind & _flat(world.depths[b], moved.places)].any()
    assert moved.visible[behind].double().mean() < 0.02
    assert moved.visible[shown].double().mean() > 0.99


def _flat(depth: Tensor, places: Tensor) -> Tensor:
    """Whether the 3 x 3 coarse pixels around a place are one surface."""
    grown = torch.nn.functional.max_pool2d(depth[None, None], 3, 1, 1)[0, 0]
    shrunk = -torch.nn.functional.max_pool2d(-depth[None, None], 3, 1, 1)[0, 0]
    column = (places[:, 0] * WIDTH).long().clamp(0, WIDTH - 1)
    row = (places[:, 1] * HEIGHT).long().clamp(0, HEIGHT - 1)
    return (grown < 1.05 * shrunk)[row, column]


def test_planes_are_exact_between_pixels() -> None:
    """1 / z is affine on a plane: a sloping one transfers without error at any place."""
    a = camera((0.0, 0.0, 0.0), (0.0, 0.0, 4.0))
    b = camera((1.0, 0.3, 0.5), (0.2, 0.0, 4.0), (25, 50), 33.0)
    normal, offset = (0.2, -0.3, 1.0), 4.0
    places = 0.05 + 0.9 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    moved = transfer(places, plane_depth(a, normal, offset), a, plane_depth(b, normal, offset), b,
                     tolerance=0.05)  # fmt: skip
    on_plane = moved.points @ torch.tensor(normal).double()
    torch.testing.assert_close(on_plane, torch.full_like(on_plane, offset), rtol=1e-9, atol=0)
    local = moved.points @ b.viewmats[0, :3, :3].T + b.viewmats[0, :3, 3]
    pixels = local @ b.Ks[0].T
    truth = pixels[:, :2] / pixels[:, 2:] / b.sizes[0]
    torch.testing.assert_close(moved.places.double(), truth, rtol=0, atol=1e-6)
    torch.testing.assert_close(moved.depth, local[:, 2])
    inside = ((truth >= 0) & (truth < 1)).all(1)
    assert inside.sum() > 60
    assert torch.equal(moved.visible, inside)


def test_known_answer() -> None:
    """Cameras one apart that look along z at a wall 4 away, focal length 40 of 40: a quarter."""
    a, b = camera((0, 0, 0), (0, 0, 1), focal=40.0), camera((1, 0, 0), (1, 0, 1), focal=40.0)
    right = 1 if a.viewmats[0, 0, 0] > 0 else -1  # whether the pictures' x is the world's
    wall = torch.full((30, 40), 4.0)
    places = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.5 + 0.25 * right, 0.6]])
    moved = transfer(places, wall, a, wall, b, tolerance=0.01)
    expected = places - torch.tensor([0.25 * right, 0.0])
    torch.testing.assert_close(moved.places, expected)
    assert moved.visible.tolist() == [bool(0 <= x < 1) for x in expected[:, 0].tolist()]
    torch.testing.assert_close(moved.points[0], torch.tensor([0.0, 0, 4]).double())
    torch.testing.assert_close(moved.depth, torch.full((4,), 4.0).double())
    assert overlap(wall, a, wall, b, 0.01) == pytest.approx(0.75)
    # A board two in front of b hides the middle of the wall from b, not from a.
    board = wall.clone()
    board[:, 15:25] = 2.0
    there = moved.places[:, 0] * 40
    hidden = (there > 15) & (there < 25)
    assert hidden.any() and not hidden.all()
    seen = transfer(places, wall, a, board, b, tolerance=0.01).visible
    assert torch.equal(seen, moved.visible & ~hidden)


def test_cameras_back_to_back_share_nothing() -> None:
    a, b = camera((0, 0, 0), (0, 0, 1)), camera((0, 0, 0), (0, 0, -1))
    wall = torch.full((30, 40), 3.0)
    moved = transfer(torch.rand(50, 2), wall, a, wall, b, tolerance=0.05)
    assert not moved.visible.any()
    assert (moved.places == -1).all() and (moved.depth < 0).all()
    assert overlap(wall, a, wall, b, 0.05) == 0
    assert float(rotation_angle(a.viewmats[0], b.viewmats[0])) == pytest.approx(180)


def test_cameras_face_to_face_see_the_floor_between_them() -> None:
    """Turned by 180 degrees about the vertical, both look down at the same floor."""
    a = camera((0.0, -2.0, -2.0), (0.0, 0.0, 0.0))
    b = camera((0.0, -2.0, 2.0), (0.0, 0.0, 0.0), (20, 16), 15.0)
    floor = (0.0, 1.0, 0.0)
    moved = transfer(torch.tensor([[0.5, 0.5], [0.6, 0.4]]), plane_depth(a, floor, 0.0), a,
                     plane_depth(b, floor, 0.0), b, tolerance=0.02)  # fmt: skip
    assert moved.visible.all()
    torch.testing.assert_close(moved.places[0], torch.tensor([0.5, 0.5]), atol=1e-6, rtol=0)
    assert moved.places[1, 0] < 0.5 < moved.places[1, 1]  # left is right, near is far


@pytest.mark.parametrize("unknown", [0.0, -1.0, math.nan, math.inf])
def test_unknown_depth_is_never_seen(unknown: float) -> None:
    # The wall goes through the world's origin, where unknown points are said to be.
    a, b = camera((0, 0, -4), (0, 0, 0)), camera((0.1, 0, -4), (0.1, 0, 0))
    wall, holed = torch.full((30, 40), 4.0), torch.full((30, 40), 4.0)
    holed[:, :20] = unknown
    places = grid_places(40, 30)
    left = places[:, 0] < 0.5
    from_a = transfer(places, holed, a, wall, b, tolerance=0.05)
    assert not from_a.visible[left].any() and from_a.visible[~left].double().mean() > 0.9
    assert (from_a.places[left] == -1).all() and (from_a.points[left] == 0).all()
    into_b = transfer(places, wall, a, holed, b, tolerance=0.05)
    inside = ((into_b.places >= 0) & (into_b.places < 1)).all(1)
    assert torch.equal(into_b.visible, inside & (into_b.places[:, 0] >= 0.5))
    for result in (from_a, into_b):
        assert result.places.isfinite().all() and result.points.isfinite().all()
    nothing = torch.full((30, 40), unknown)
    assert overlap(nothing, a, wall, b, 0.05) == 0 == overlap(wall, a, nothing, b, 0.05)


def test_depth_edges_are_not_blended() -> None:
    """Half-way between a pixel at 1 and one at 9 there is nothing at 5."""
    depth = torch.full((4, 4), 1.0)
    depth[:, 2:] = 9.0
    view = camera((0, 0, 0), (0, 0, 1), (4, 4))
    maps = DepthMaps.of([depth], view)
    x = torch.linspace(0, 1, 33).double()
    z = maps.at(torch.stack([x, torch.full_like(x, 0.5)], 1)[None], 0.05)[0]
    assert z.unique().tolist() == [1.0, 9.0]
    assert torch.equal(z, torch.where(x < 0.5, 1.0, 9.0).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_on_and_beyond_the_border_take_the_border(dtype: torch.dtype) -> None:
    depth = 1 + torch.arange(224 * 3.0).reshape(3, 224)
    maps = DepthMaps.of([depth], camera((0, 0, 0), (0, 0, 1), (224, 3)))
    far = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [-1, 2], [1e30, -1e30]]], dtype=dtype)
    border = torch.tensor([[1.0, 224, 672, 449, 224]]).double()
    torch.testing.assert_close(maps.at(far, 0.0), border, rtol=1e-2, atol=0)


def test_a_lone_pixel_is_flat() -> None:
    depth = torch.zeros(5, 5)
    depth[2, 2] = 1.01
    maps = DepthMaps.of([depth], camera((0, 0, 0), (0, 0, 1), (5, 5)))
    places = 0.42 + 0.16 * torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(1))
    assert maps.at(places.double(), 0.05).unique().tolist() == [pytest.approx(1.01)]


def test_a_crease_is_not_followed() -> None:
    """1 / z of 1, 0.9, 1: the sides disagree about where it goes on."""
    depth = torch.tensor([[1.0, 1 / 0.9, 1.0]])
    maps = DepthMaps.of([depth], camera((0, 0, 0), (0, 0, 1), (3, 1)))
    places = torch.tensor([[[1.1 / 3, 0.5], [1.9 / 3, 0.5]]]).double()
    assert (1 / maps.at(places, 0.05)).flatten().tolist() == pytest.approx([0.9, 0.9])


def test_a_slope_beside_a_hole_is_followed_if_gentle() -> None:
    """1 / z of 1, 0.98, unknown: gentle at five in a hundred, an edge at one in a hundred."""
    depth = torch.tensor([[1.0, 1 / 0.98, 0.0]])
    maps = DepthMaps.of([depth], camera((0, 0, 0), (0, 0, 1), (3, 1)))
    place = torch.tensor([[[1.9 / 3, 0.5]]]).double()
    assert 1 / float(maps.at(place, 0.05)) == pytest.approx(0.98 - 0.4 * 0.02)
    assert 1 / float(maps.at(place, 0.01)) == pytest.approx(0.98)


def test_many_maps_of_any_size_as_one_by_one(world: World) -> None:
    cameras = stack_cameras([
        world.cameras[0], world.cameras[1].resized(FINE * WIDTH, FINE * HEIGHT), world.cameras[2]
    ])  # fmt: skip
    depths = [world.depths[0], world.fine[1], world.depths[2]]
    points, known = unproject(
        grid_places(WIDTH, HEIGHT, 4), DepthMaps.of(depths[:1], cameras[0]), 0.05
    )
    assert known.all()
    together = DepthMaps.of(depths, cameras).find(points, 0.05)
    for index in range(3):
        alone = DepthMaps.of([depths[index]], cameras[index]).find(points, 0.05)
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[index], theirs[0], rtol=0, atol=0)
    assert together[2][0].all()  # the view it comes from sees it all


def test_overlap_of_a_view_with_itself_and_with_steps(world: World) -> None:
    own = overlap(world.depths[0], world.cameras[0], world.depths[0], world.cameras[0], 0.05)
    assert own == 1
    args = (world.depths[0], world.cameras[0], world.depths[1], world.cameras[1], 0.05)
    assert overlap(*args, 4) == pytest.approx(overlap(*args), abs=0.05)
    assert overlap(*args, 1000) in (0.0, 1.0)  # one pixel


def test_sizes_must_agree(world: World) -> None:
    with pytest.raises(ValueError, match="sizes"):
        transfer(torch.rand(3, 2), world.fine[0], world.cameras[0], world.depths[1],
                 world.cameras[1], tolerance=0.05)  # fmt: skip


def test_grid_places_are_pixel_centres() -> None:
    places = grid_places(4, 2)
    assert places[:, 0].tolist() == [0.125, 0.375, 0.625, 0.875] * 2
    assert places[:, 1].tolist() == [0.25] * 4 + [0.75] * 4
    assert grid_places(9, 9, 3).tolist()[4] == [0.5, 0.5]


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.5, 30.0, 90.0, 179.9999, 180.0])
def test_rotation_angle(degrees: float) -> None:
    a = camera((1.0, 2.0, 3.0), (0.3, 0.1, -1.0)).viewmats[0]
    turn = torch.eye(4).double()
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    # Near 180 degrees the sine is known to 1e-16 only.
    assert float(rotation_angle(a, turn @ a)) == pytest.approx(degrees, abs=1e-9)
    both = rotation_angle(a[None, None], torch.stack([a, turn @ a])[:, None])
    assert both.shape == (2, 1) and float(both[0]) == pytest.approx(0, abs=1e-9)
