"""Which views go together, and the points they share: on exact rooms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.finetuning import pairs as pairing
from fit3d_cli.finetuning.batch import Pairs
from fit3d_cli.finetuning.pairs import FEWEST, draw_pairs, find_partners
from fit3d_cli.finetuning.targets import DepthView, SceneTargets
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.correspond import DepthMaps, overlap, rotation_angle, transfer
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.rooms import generate_room, render_room, room_intrinsics, room_path
from fit3d_cli.scene import FeatureSource
from fit3d_cli.settings import PairSettings
from fit3d_cli.tensorfile import write_sealed

SIZES = [(48, 36), (48, 36), (40, 24), (48, 36), (48, 36)]
SETTINGS = PairSettings(points=40)


@pytest.fixture(scope="module")
def views() -> list[DepthView]:
    """Five views two thirds around a room, one of another size."""
    room = generate_room(3)
    poses = room_path(room, 28)[:20:4]
    made = []
    for pose, (width, height) in zip(poses, SIZES, strict=True):
        K = room_intrinsics(width, height)
        depth = torch.from_numpy(render_room(room, pose, K, width, height).depth)
        camera = Cameras(
            torch.from_numpy(np.linalg.inv(pose))[None], torch.from_numpy(K)[None],
            torch.tensor([[width, height]]),
        )  # fmt: skip
        made.append(DepthView(depth, camera))
    return made


def draw(
    a: DepthView, b: DepthView, *, seed: int = 0, flip_a: bool = False, flip_b: bool = False,
    settings: PairSettings = SETTINGS,
) -> Pairs | None:  # fmt: skip
    return draw_pairs(a, b, first=2, second=5, flip_a=flip_a, flip_b=flip_b, settings=settings,
                      generator=torch.Generator().manual_seed(seed))  # fmt: skip


def found(*args: DepthView, **options: object) -> Pairs:
    result = draw(*args, **options)  # type: ignore[arg-type]
    assert result is not None
    return result


def project(points: Tensor, camera: Cameras) -> Tensor:
    """Pixels of world points."""
    local = points.double() @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3]
    pixels = local @ camera.Ks[0].T
    return pixels[:, :2] / pixels[:, 2:]


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (1, 2), (2, 3)])
def test_points_are_seen_by_both_views_where_it_says(
    views: list[DepthView], a: int, b: int
) -> None:
    pairs = found(views[a], views[b])
    assert (pairs.first, pairs.second) == (2, 5)
    assert len(pairs.points) == 40
    for view, places in ((views[a], pairs.places_first), (views[b], pairs.places_second)):
        assert ((places >= 0) & (places < 1)).all()
        error = project(pairs.points, view.camera) - places * view.camera.sizes[0]
        assert error.norm(dim=1).max() < 1e-3
        # The view's own depth confirms the point: it is not behind something.
        local = pairs.points @ view.camera.viewmats[0, :3, :3].T + view.camera.viewmats[0, :3, 3]
        there = DepthMaps.of([view.depth], view.camera).at(places[None], 0.05)[0]
        assert ((there - local[:, 2]).abs() <= 0.05 * local[:, 2]).all()
    # Sub-pixel: no two share a row of pixel centres.
    pixels = pairs.places_first * views[a].camera.sizes[0]
    assert ((pixels - pixels.floor() - 0.5).abs() > 1e-3).all(1).float().mean() > 0.9


def test_there_and_back_is_close(views: list[DepthView]) -> None:
    """The point that b sees, lifted by b's own depth, lies at the place in a, which knows it."""
    checks = (torch.arange(36)[:, None] + torch.arange(48)) % 2 == 0
    holed = DepthView(views[0].depth * checks, views[0].camera)
    for factor in (1.015, 1.04):  # wrong, but not by more than the tolerance
        wrong = DepthView(factor * views[1].depth, views[1].camera)
        pairs = found(holed, wrong)
        back = transfer(pairs.places_second, wrong.depth, wrong.camera, holed.depth,
                        holed.camera, tolerance=0.05)  # fmt: skip
        assert (back.places - pairs.places_first).abs().max() <= 0.0151
        assert back.visible.all()


def test_places_are_mirrored_with_their_pictures(views: list[DepthView]) -> None:
    plain = found(views[0], views[1])
    for flip_a in (False, True):
        for flip_b in (False, True):
            pairs = found(views[0], views[1], flip_a=flip_a, flip_b=flip_b)
            torch.testing.assert_close(pairs.points, plain.points, rtol=0, atol=0)
            for now, before, flip in (
                (pairs.places_first, plain.places_first, flip_a),
                (pairs.places_second, plain.places_second, flip_b),
            ):
                assert torch.equal(now[:, 1], before[:, 1])
                expected = 1 - before[:, 0] if flip else before[:, 0]
                torch.testing.assert_close(now[:, 0], expected)


def test_the_generator_decides(views: list[DepthView]) -> None:
    one, same, other = (found(views[0], views[1], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.places_first, same.places_first)
    assert torch.equal(one.points, same.points) and one.extent == same.extent
    assert not torch.equal(one.places_first, other.places_first)
    states = []
    for target in (views[1], views[4]):  # enough points, few or none
        generator = torch.Generator().manual_seed(7)
        draw_pairs(views[0], target, first=0, second=1, flip_a=False, flip_b=False,
                   settings=SETTINGS, generator=generator)  # fmt: skip
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_extent_is_the_median_distance_from_the_middle(views: list[DepthView]) -> None:
    pairs = found(views[0], views[1])
    points = pairs.points.numpy()
    middle = np.sort(points, axis=0)[(len(points) - 1) // 2]
    distances = np.sort(np.linalg.norm(points - middle, axis=1))
    assert pairs.extent == pytest.approx(distances[(len(points) - 1) // 2])
    assert 0.1 < pairs.extent < 5  # metres, of a room


def test_too_few_points_are_no_pair(views: list[DepthView]) -> None:
    nothing = replace(views[1], depth=torch.zeros_like(views[1].depth))
    assert draw(views[0], nothing) is None
    assert draw(nothing, views[0]) is None
    turned = views[0].camera.viewmats.clone()
    turned[:, [0, 2]] *= -1  # back to back
    back = DepthView(views[0].depth, Cameras(turned, views[0].camera.Ks, views[0].camera.sizes))
    assert float(rotation_angle(turned[0], views[0].camera.viewmats[0])) == pytest.approx(180)
    assert draw(views[0], back) is None
    # One known pixel of a: some candidates fall on it, or too few.
    speck = torch.zeros_like(views[0].depth)
    speck[18, 24] = views[0].depth[18, 24]
    small = draw(DepthView(speck, views[0].camera), views[0])
    assert small is None or len(small.points) >= FEWEST


def test_unknown_depth_never_gives_a_point(views: list[DepthView]) -> None:
    holed = views[0].depth.clone()
    holed[:, :24] = float("nan")
    holed[:, 26:] = 0  # little is left: candidates are not wasted on the rest
    few = DepthView(holed, views[0].camera)
    pairs = found(few, views[1], settings=PairSettings(points=200))
    assert len(pairs.points) == 200
    assert (pairs.places_first[:, 0] >= 0.5).all()
    assert (pairs.places_first[:, 0] <= 26 / 48).all()
    assert pairs.points.isfinite().all() and np.isfinite(pairs.extent)


def pair_views(views: list[DepthView], settings: PairSettings) -> list[list[int]]:
    """For each view the others."""
    cameras = stack_cameras([view.camera for view in views])
    good = pairing.pair_views([view.depth for view in views], cameras, settings)
    return [row.nonzero()[:, 0].tolist() for row in good]


def test_partners_see_enough_of_each_other(
    views: list[DepthView], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PairSettings(min_overlap=0.3, max_angle=75)
    found = pair_views(views, settings)
    for a, first in enumerate(views):
        for b, second in enumerate(views):
            if a == b:
                assert b not in found[a]
                continue
            angle = float(rotation_angle(first.camera.viewmats[0], second.camera.viewmats[0]))
            both = [
                overlap(one.depth, one.camera, two.depth, two.camera, settings.tolerance)
                for one, two in ((first, second), (second, first))
            ]
            if angle > 75 or min(both) < 0.3 - 0.06:  # a sample of the pixels is asked
                assert b not in found[a]
            elif min(both) > 0.3 + 0.06:
                assert b in found[a]
            assert (b in found[a]) == (a in found[b])
    assert all(found[a] == sorted(found[a]) for a in range(len(views)))
    assert sum(map(len, found)) >= 8
    assert sum(map(len, pair_views(views, PairSettings(min_overlap=1.0)))) == 0
    narrow = pair_views(views, PairSettings(min_overlap=0.01, max_angle=40))
    wide = pair_views(views, PairSettings(min_overlap=0.01, max_angle=180))
    assert sum(map(len, narrow)) < sum(map(len, wide))
    assert pair_views(views[:1], settings) == [[]]
    for together in (1, 3):
        monkeypatch.setattr(pairing, "_TOGETHER", together)
        assert pair_views(views, settings) == found


def test_a_detail_and_the_whole_are_no_partners(views: list[DepthView]) -> None:
    """The whole sees all of the detail, the detail a ninth of the whole: the lesser counts."""
    whole = views[0]
    Ks = whole.camera.Ks.clone()
    Ks[:, :2, :2] *= 3
    depth = whole.depth[12:24, 16:32].repeat_interleave(3, 0).repeat_interleave(3, 1)
    detail = DepthView(depth, Cameras(whole.camera.viewmats, Ks, whole.camera.sizes))
    for both in ([whole, detail], [detail, whole]):
        assert pair_views(both, PairSettings(min_overlap=0.3)) == [[], []]
        assert pair_views(both, PairSettings(min_overlap=0.05)) == [[1], [0]]


def scene_of(views: list[DepthView], folder: Path, train: tuple[int, ...]) -> SceneTargets:
    path = folder / "depths.safetensors"
    write_sealed(path, {f"d{i}": view.depth for i, view in enumerate(views)}, {})
    cameras = stack_cameras([view.camera for view in views])
    source = FeatureSource("none", "", 48, 36, 12, 3)
    held = tuple(i for i in range(len(views)) if i not in train)
    photos = ("photo",) * len(views)
    return SceneTargets(
        "hall", folder / "hall.f3d", folder, folder / "maps", photos,  # type: ignore[arg-type]
        cameras, train, held, source, "digest", novel=2, depths=path,
    )  # fmt: skip


def test_partners_of_a_scene_are_training_photos_and_kept(
    views: list[DepthView], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = (0, 1, 3)
    scene = scene_of(views, tmp_path, train)
    events: list[Progress] = []
    partners = find_partners(scene, SETTINGS, events.append)  # type: ignore[arg-type]
    among = pair_views([views[i] for i in train], SETTINGS)
    assert len(partners) == len(views) + 2  # photos, then rendered views
    for row, index in enumerate(train):
        assert partners[index].tolist() == [train[column] for column in among[row]]
    assert any(partners) and not any(partners[i] for i in (2, 4, 5, 6))
    assert events[-1].done == events[-1].total == len(train)

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(pairing, "pair_views", fail)
        assert find_partners(scene, SETTINGS, ignore) == partners
        for changed in (
            (scene, PairSettings(min_overlap=0.4)),
            (scene, PairSettings(max_angle=50)),
            (scene, PairSettings(tolerance=0.1)),
            (replace(scene, train=(0, 1)), SETTINGS),
            (replace(scene, digest="other"), SETTINGS),
        ):
            with pytest.raises(AssertionError, match="again"):
                find_partners(*changed, ignore)
    alone = find_partners(replace(scene, train=(0,)), SETTINGS, ignore)
    assert not any(alone) and len(alone) == len(views) + 2
    with pytest.raises(ValueError, match="without depths"):
        find_partners(replace(scene, depths=None), SETTINGS, ignore)


def test_big_depth_maps_are_judged_small(views: list[DepthView]) -> None:
    """Eight times the pixels, the same planes: the shrunk map tells the same depth."""
    big = views[0].depth.repeat_interleave(8, 0).repeat_interleave(8, 1)
    camera = views[0].camera.resized(big.shape[1], big.shape[0])
    small = pairing._shrink(DepthView(big, camera), 0.05)
    assert tuple(small.depth.shape) == (48, 64)
    assert small.camera.sizes.tolist() == [[64, 48]]
    assert set(small.depth.flatten().tolist()) <= set(big.flatten().tolist())
    same = pairing._shrink(views[0], 0.05)
    torch.testing.assert_close(same.depth, views[0].depth)
