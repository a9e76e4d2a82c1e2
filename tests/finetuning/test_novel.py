"""Rendered views between the photos."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.finetuning.targets import SceneTargets, find_targets, load_sample, prepare_targets
from fit3d_cli.finetuning.targets import novel as novel_module
from fit3d_cli.finetuning.targets.novel import (
    between,
    interpolate,
    neighbours,
    novel_cameras,
)
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.scene import Scene
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.rasterize import render_gaussians, view_weights
from fit3d_cli.workspace import Workspace


@pytest.fixture(scope="module")
def base(backbone_dir: Path) -> Backbone:
    return load_backbone(str(backbone_dir))


def prepare(
    workspace: Path, base: Backbone, count: int, on_event: OnEvent = ignore, source: str = "archive"
) -> SceneTargets:
    place = Workspace(workspace)
    settings = FinetuneSettings.model_validate(
        {"min_alpha": 0, "targets": {"novel_views": count, "source": source}}
    )
    found = find_targets(workspace / "scenes" / "hall.f3d", place, [])
    return prepare_targets(found, settings, base, place, "cpu", on_event, depths=False)


def turned(degrees: float) -> Tensor:
    """Rotation about the y axis."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    rows = [[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]
    return torch.tensor(rows, dtype=torch.float64)


def camera(degrees: float, center: tuple[float, float, float], focal: float = 50.0) -> Cameras:
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = turned(degrees)
    viewmat[:3, 3] = -turned(degrees) @ torch.tensor(center, dtype=torch.float64)
    K = torch.tensor([[focal, 0, 32], [0, focal, 24], [0, 0, 1]], dtype=torch.float64)
    return Cameras(viewmat[None], K[None], torch.tensor([[64, 48]]))


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(("start", "turn"), [(0, 80), (-170, -60), (150, 100), (20, 0)])
def test_a_camera_between_two_by_hand(start: float, turn: float, t: float) -> None:
    first, second = camera(start, (1, 2, 3), 40), camera(start + turn, (3, 2, -1), 60)
    made = interpolate(first, second, t)
    torch.testing.assert_close(made.viewmats[0, :3, :3], turned(start + t * turn))
    expected = torch.tensor([[1 + 2 * t, 2.0, 3 - 4 * t]], dtype=torch.float64)
    torch.testing.assert_close(made.centers, expected)
    assert float(made.Ks[0, 0, 0]) == pytest.approx(40 + 20 * t)
    assert made.sizes.tolist() == [[64, 48]]
    assert float(torch.linalg.det(made.viewmats[0])) == pytest.approx(1)


def test_neighbours_are_near_in_place_and_direction() -> None:
    row = [camera(0, (x, 0, 0)) for x in (0.0, 1.0, 1.5, 5.0)]
    assert neighbours(stack_cameras(row)) == [(0, 1), (1, 2), (2, 3)]
    # Two back to back at one place, and one a step away that looks the same way as the first.
    mixed = [camera(0, (0, 0, 0)), camera(180, (0, 0, 0)), camera(5, (0.2, 0, 0))]
    far = camera(0, (3, 0, 0))
    assert neighbours(stack_cameras([*mixed, far])) == [(0, 2), (2, 3)]
    assert neighbours(row[0]) == [] and len(between(row[0], 3)) == 0
    assert neighbours(stack_cameras([row[0], row[0]])) == [(0, 1)], "two views at one place"


def test_places_are_spread_first_and_none_comes_twice() -> None:
    cameras = stack_cameras([camera(0, (float(x), 0, 0)) for x in range(9)])
    pairs = len(neighbours(cameras))
    assert pairs == 8
    few = between(cameras, 4)
    assert few.centers[:4, 0].tolist() == [1.5, 3.5, 5.5, 7.5]
    many = between(cameras, 12)
    assert sorted(many.centers[:8, 0].tolist()) == [x + 0.5 for x in range(8)]
    assert all(x % 1 == 0.25 for x in many.centers[8:12, 0].tolist())
    for made in (few, many):
        assert len(made) == len({round(x, 6) for x in made.centers[:, 0].tolist()}) == 7 * pairs


def test_picture_and_target_show_the_same_place(own: Path, base: Backbone) -> None:
    targets = prepare(own, base, 3)
    assert targets.novel == 3 and targets.pictures is not None
    scene = read_archive(own / "scenes" / "hall.f3d")
    cameras = novel_cameras(targets.pictures, targets.source)
    assert cameras.sizes.tolist() == [[64, 48]] * 3
    photos = targets.cameras.centers
    for number in range(3):
        place = cameras[number]
        assert float((photos - place.centers).norm(dim=1).min()) > 1e-3, "a photo's own place"
        sample = load_sample(targets, 6 + number)
        view = (place.viewmats[0], place.Ks[0], 64, 48)
        picture = render_gaussians(scene.gaussians, *view).rgb.clamp(0, 1)
        torch.testing.assert_close(sample.image, picture.permute(2, 0, 1), rtol=0, atol=0.5 / 255)
        weights = view_weights(scene.gaussians, *view)
        pooled = weights.apply(scene.features).reshape(6, 8, 8, 8, 5).mean((1, 3))
        torch.testing.assert_close(sample.target, scene.decoder(pooled[None])[0], rtol=0, atol=2e-2)
        alphas = weights.alphas.reshape(6, 8, 8, 8).mean((1, 3))
        torch.testing.assert_close(sample.weight, alphas, rtol=0, atol=1e-3)
        assert torch.equal(sample.mask, torch.ones(6, 8))
    with pytest.raises(IndexError, match="6 photos, 3 rendered"):
        load_sample(targets, 9)
    # Held-out views stay out: the places lie between training views only.
    held = targets.cameras[list(targets.heldout)]
    training = targets.cameras[list(targets.train)]
    expected = between(training, 3)[[0, 1, 2]]
    assert torch.equal(expected.viewmats, cameras.viewmats)
    assert not (held.viewmats[:, None] == cameras.viewmats[None]).all((-1, -2)).any()


def test_the_same_views_every_time_and_for_every_source(own: Path, base: Backbone) -> None:
    events: list[Progress] = []
    first = prepare(own, base, 2, events.append)
    assert [e.done for e in events if e.stage == "hall: novel views"] == [0, 1, 2]
    assert [e.total for e in events if e.stage == "hall: targets"] == [8] * 9
    assert first.pictures is not None
    data, maps = first.pictures.read_bytes(), first.path.read_bytes()
    first.pictures.write_bytes(data[:-1])
    first.path.unlink()
    again = prepare(own, base, 2)
    assert (again.path, again.pictures, again.novel) == (first.path, first.pictures, 2)
    assert first.pictures.read_bytes() == data and first.path.read_bytes() == maps
    lifted = prepare(own, base, 2, source="relifted")
    assert lifted.pictures == first.pictures and lifted.path != first.path
    ours, theirs = load_sample(lifted, 7), load_sample(first, 7)
    assert torch.equal(ours.image, theirs.image)
    # Every Gaussian of the tiny scene is seen, so both tell the same coverage.
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=0.05)
    near = torch.cosine_similarity(ours.target, theirs.target, dim=-1)
    assert float(near[ours.weight > 0.5].mean()) > 0.5, "two ways to the tokens of one place"


def test_places_that_show_little_are_replaced(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = read_archive(own / "scenes" / "hall.f3d")
    found = find_targets(own / "scenes" / "hall.f3d", Workspace(own), [])
    candidates = between(found.cameras[list(found.train)], 4)
    alphas = [
        float(view_weights(scene.gaussians, c.viewmats[0], c.Ks[0], 64, 48).alphas.mean())
        for c in (candidates[i] for i in range(len(candidates)))
    ]
    floor = sorted(alphas[:4])[2]  # two of the first four are below
    monkeypatch.setattr(novel_module, "_COVERED", floor)
    good = [i for i, alpha in enumerate(alphas) if alpha >= floor]
    assert len(good) >= 4, "the scene shows nothing to test"
    events: list[Progress] = []
    targets = prepare(own, base, 4, events.append)
    assert targets.pictures is not None and targets.novel == 4
    cameras = novel_cameras(targets.pictures, targets.source)
    assert torch.equal(cameras.viewmats, candidates.viewmats[good[:4]])
    passed = good[3] - 3
    last = [event for event in events if event.stage == "hall: novel views"][-1]
    assert last.note == f"{passed} places that the scene hardly covers passed over"


@pytest.mark.parametrize("source", ["archive", "relifted"])
def test_as_many_views_at_other_places_are_other_views(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Two wishes that end in the same number, as few places show anything: each has its maps."""
    found = find_targets(own / "scenes" / "hall.f3d", Workspace(own), [])
    training = found.cameras[list(found.train)]
    pairs = len(neighbours(training))
    wishes = (pairs + 1, 7 * pairs)
    orders = [between(training, wish).viewmats for wish in wishes]
    # Shown: what stands at other places of the two orders, and one more.
    moved = next(i for i in range(len(orders[0])) if not torch.equal(orders[0][i], orders[1][i]))
    shown = [orders[0][moved], orders[1][moved], orders[0][0]]
    real = novel_module._picture

    def picture(scene: Scene, camera: Cameras) -> Tensor | None:
        seen = any(torch.equal(camera.viewmats[0], place) for place in shown)
        return real(scene, camera) if seen else None

    monkeypatch.setattr(novel_module, "_COVERED", 0.0)
    monkeypatch.setattr(novel_module, "_picture", picture)
    one, other = (prepare(own, base, wish, source=source) for wish in wishes)
    assert one.novel == other.novel == 3
    for index in (1, 2):
        ours, theirs = load_sample(one, 6 + index), load_sample(other, 9 - index)
        assert torch.equal(ours.image, theirs.image), "the same place under another number"
        assert not torch.equal(ours.image, load_sample(other, 6 + index).image)
        torch.testing.assert_close(ours.target, theirs.target)


def test_a_scene_that_shows_nothing_has_no_novel_views(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novel_module, "_COVERED", 2.0)
    targets = prepare(own, base, 4)
    assert targets.novel == 0
    assert load_sample(targets, 0).target.shape == (6, 8, 24)
    with pytest.raises(IndexError):
        load_sample(targets, 6)
