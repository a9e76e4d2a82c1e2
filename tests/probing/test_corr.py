"""Correspondence: figures by hand and by brute force, pairs, sources, the whole task."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.capture.base import View
from fit3d_cli.capture.read import read_capture
from fit3d_cli.device import seeded
from fit3d_cli.errors import CaptureError, DatasetError, SettingsError, UnknownNameError
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.correspond import DepthMaps, grid_places, rotation_angle, unproject
from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.lifting.lift import lift_captures
from fit3d_cli.probing import corr, matching
from fit3d_cli.probing.posed import PosedViews, open_posed
from fit3d_cli.probing.tasks.base import TASKS, Question
from fit3d_cli.probing.view_pairs import choose_pairs
from fit3d_cli.progress import ignore
from fit3d_cli.rooms import write_room
from fit3d_cli.settings import CorrSettings, LiftSettings, ProbeSettings
from fit3d_cli.workspace import Workspace


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- matching -----------------------------------------------------------------------------------


def test_nearest_patches_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, tokens = rand(9, 5), rand(3, 4, 5, seed=1)
    found = matching.nearest_patches(queries, tokens)
    for query, place in zip(queries, found, strict=True):
        cosines = {
            ((x + 0.5) / 4, (y + 0.5) / 3): float(torch.cosine_similarity(query, tokens[y, x], 0))
            for y in range(3)
            for x in range(4)
        }
        assert tuple(place.tolist()) == pytest.approx(max(cosines, key=cosines.__getitem__))
    assert torch.equal(matching.nearest_patches(7 * queries, tokens), found)
    monkeypatch.setattr(matching, "_CHUNK_VALUES", 30)
    assert torch.equal(matching.nearest_patches(queries, tokens), found)
    assert matching.nearest_patches(queries[:0], tokens).shape == (0, 2)


def test_pixel_features_are_bilinear_and_of_unit_length() -> None:
    tokens = rand(3, 4, 6)
    found = matching.pixel_features(tokens, 10, 7)
    expected = torch.nn.functional.normalize(interpolate(tokens, grid_places(10, 7)), dim=1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_confident_matches_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (torch.nn.functional.normalize(rand(n, 4, seed=n), dim=1) for n in (12, 15))
    usable_first, usable_second = rand(12, seed=3) > -0.8, rand(15, seed=4) > -0.8
    ranked = []
    for i in range(12):
        if usable_first[i]:
            near = sorted(
                (1 - float(first[i] @ second[j]), j) for j in range(15) if usable_second[j]
            )
            ranked.append((1 - near[0][0] / near[1][0], i, near[0][1]))
    ranked.sort(reverse=True)
    for chunk in (1 << 20, 20):
        monkeypatch.setattr(matching, "_CHUNK_VALUES", chunk)
        found = matching.confident_matches(first, second, usable_first, usable_second, 5)
        assert found.first.tolist() == [i for _, i, _ in ranked[:5]]
        assert found.second.tolist() == [j for _, _, j in ranked[:5]]
        assert found.weights.tolist() == pytest.approx([w for w, _, _ in ranked[:5]], abs=1e-5)
    for few in (usable_first & False, torch.ones(12, dtype=torch.bool)):
        one = torch.arange(15) < (1 if few.any() else 15)
        assert len(matching.confident_matches(first, second, few, one, 5).first) == 0


# --- figures of a pair ---------------------------------------------------------------------------


def test_dense_figures_by_hand() -> None:
    # View b: 1 x 4 patches of 10 pixels; its tokens are unit vectors, so each query names its
    # answer. Patch centres lie at x = 5, 15, 25, 35 and y = 5.
    b = torch.eye(4).view(1, 4, 4)
    a = torch.stack([b[0, 0], b[0, 1], b[0, 3], b[0, 2]]).view(1, 4, 4)
    truth = corr.DenseTruth(
        torch.tensor([[5 / 40, 0.5], [25 / 40, 0.5], [14 / 40, 0.5], [0.9, 0.5]]),
        torch.tensor([True, True, True, False]),
    )
    found = corr.dense_figures(a, b, truth, (40, 10))
    errors = [0, 10, 21]  # pixels; the fourth is hidden
    assert found["recall@1patch"] == pytest.approx(2 / 3)
    assert found["recall@2patch"] == pytest.approx(2 / 3)
    assert found["ape"] == pytest.approx(100 * sum(errors) / 3 / 10)
    wide = corr.dense_figures(a, b, truth, (400, 100))
    assert wide["recall@1patch"] == pytest.approx(2 / 3), "patches, not pixels"
    # A shortest edge of 100 pixels with errors of 0, 10 and 21 pixels.
    tall = corr.DenseTruth(truth.places, truth.visible)
    shares = corr.dense_figures(a.view(1, 4, 4), b, tall, (40, 100))
    assert shares["ape"] == pytest.approx(100 * sum(errors) / 3 / 40)
    assert [shares[f"pcdp@{t}"] for t in (".05", ".1", ".2")] == pytest.approx([1 / 3] * 3)
    near = corr.DenseTruth(truth.places, torch.tensor([True, False, False, False]))
    assert corr.dense_figures(a, b, near, (40, 10))["pcdp@.05"] == 1.0


@pytest.mark.parametrize(
    ("error", "shares"),
    [(1.9, (1, 1, 1)), (2.1, (0, 1, 1)), (7.9, (0, 0, 1)), (8.1, (0, 0, 0))],
)
def test_pcdp_is_relative_to_the_shortest_edge(error: float, shares: tuple[float, ...]) -> None:
    b = torch.eye(2).view(1, 2, 2)  # 80 x 40 pixels, answers at x = 20 and 60
    truth = corr.DenseTruth(torch.tensor([[(20 + error) / 80, 0.5]] * 2).double(),
                            torch.tensor([True, False]))  # fmt: skip
    found = corr.dense_figures(b, b, truth, (80, 40))
    assert tuple(found[f"pcdp@{t}"] for t in (".05", ".1", ".2")) == shares
    assert found["ape"] == pytest.approx(100 * error / 40)


def test_nothing_visible_is_not_a_number() -> None:
    truth = corr.DenseTruth(torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool))
    found = corr.dense_figures(rand(2, 2, 3), rand(2, 2, 3), truth, (4, 4))
    assert all(math.isnan(value) for value in found.values())


def camera(angle: float, *, move: float = 0.0, width: int = 64, height: int = 48) -> Cameras:
    """Turned about y by degrees, moved along x, looking into +z."""
    turn = math.radians(angle)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[0, 0] = viewmat[2, 2] = math.cos(turn)
    viewmat[0, 2], viewmat[2, 0] = -math.sin(turn), math.sin(turn)
    viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor([move, 0.0, 0.0], dtype=torch.float64)
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(viewmat[None], K[None], torch.tensor([[width, height]]))


def wall(camera: Cameras, distance: float = 4.0) -> Tensor:
    """Depth of the plane z = distance as a camera sees it; 0 where it looks away."""
    width, height = map(int, camera.sizes[0].tolist())
    places = grid_places(width, height) * camera.sizes[0]
    rays = torch.cat([places, torch.ones(len(places), 1)], 1) @ torch.linalg.inv(camera.Ks[0]).T
    along = rays @ camera.viewmats[0, :3, :3]  # in the world
    depth = (distance - camera.centers[0, 2]) / along[:, 2]
    return torch.where(depth > 0, depth, 0.0).view(height, width).float()


def world_features(camera: Cameras, grid: tuple[int, int]) -> Tensor:
    """Tokens that depend on the 3D point alone; the more alike the nearer."""
    maps = DepthMaps.of([wall(camera)], camera)
    points, _ = unproject(grid_places(grid[1], grid[0]), maps, 0.05)
    phases = points.float() @ (0.7 * rand(3, 64, seed=7))
    return torch.cat([phases.cos(), phases.sin()], dim=1).view(*grid, 128)


def test_features_of_the_point_itself_find_everything_and_shuffled_ones_nothing() -> None:
    a, b = camera(0), camera(12, move=0.5)
    views = (wall(a), a, wall(b), b)
    grid, size = (12, 16), (128, 96)
    tokens_a, tokens_b = world_features(a, grid), world_features(b, grid)
    dense = corr.dense_truth(*views, grid, 0.05)
    assert 0.5 < float(dense.visible.double().mean()) < 1
    sure = corr.sure_truth(*views, stride=4, tolerance=0.05)
    assert sure.grid_a == sure.grid_b == (30, 40)
    found = corr.dense_figures(tokens_a, tokens_b, dense, size)
    found |= corr.sure_figures(tokens_a, tokens_b, sure, 60)
    assert found["recall@1patch"] == found["pcdp@.1"] == 1.0 and found["recall@10px"] > 0.95
    assert found["ape"] < 100 * 8 / 96
    order = torch.randperm(12 * 16, generator=torch.Generator().manual_seed(0))
    shuffled = tokens_b.flatten(0, 1)[order].view_as(tokens_b)
    lost = corr.dense_figures(tokens_a, shuffled, dense, size)
    lost |= corr.sure_figures(tokens_a, shuffled, sure, 60)
    # A disc of radius one patch covers pi of 192 patches.
    assert lost["recall@1patch"] == pytest.approx(math.pi / 192, abs=0.03)
    assert lost["recall@10px"] < 0.15 and lost["ape"] > 25


def test_truth_is_the_projection() -> None:
    a, b = camera(0), camera(0, move=1.0)
    views = (wall(a), a, wall(b), b)
    dense = corr.dense_truth(*views, (3, 4), 0.05)
    # A step of 1 at depth 4 is 60 / 4 = 15 of 64 pixels.
    centres = grid_places(4, 3)
    expected = centres - torch.tensor([15 / 64, 0])
    assert torch.allclose(dense.places.double(), expected, atol=1e-5)
    assert dense.visible.tolist() == (expected[:, 0] >= 0).tolist()
    hidden = wall(b)
    hidden[:, 32:] = 2.0  # something stands before the right half of b
    seen = corr.dense_truth(wall(a), a, hidden, b, (3, 4), 0.05).visible
    assert seen.tolist() == ((expected[:, 0] >= 0) & (expected[:, 0] < 0.5)).tolist()


def test_sure_figures_by_hand() -> None:
    # Frames of 4 x 2 candidates: 160 / 4 = 40 pixels apart.
    features = torch.eye(8).view(2, 4, 8)
    places = grid_places(4, 2).clone()
    places[1, 0] += 8 / 160
    places[2, 1] += 18 / 80
    places[3] = -1  # behind the camera
    everything = torch.ones(8, dtype=torch.bool)
    truth = corr.SureTruth((2, 4), (2, 4), places, torch.arange(8) < 4, everything)
    found = corr.sure_figures(features, features, truth, 10)
    assert found == {"recall@5px": 0.25, "recall@10px": 0.5, "recall@20px": 0.75}
    none = corr.SureTruth((2, 4), (2, 4), places, ~everything, everything)
    assert all(math.isnan(v) for v in corr.sure_figures(features, features, none, 10).values())


def test_only_the_surest_count_and_only_known_pixels_answer() -> None:
    b = camera(0)
    holes = wall(b)
    holes[:, :32] = 0
    truth = corr.sure_truth(wall(b), b, holes, b, stride=8, tolerance=0.05)
    columns = grid_places(20, 15)[:, 0]
    assert truth.grid_b == (15, 20)
    assert truth.known_b.tolist() == (columns > 0.5).tolist() and bool(truth.known_a.all())
    tokens = rand(6, 8, 16)
    one = corr.sure_figures(tokens, tokens, truth, 1)
    every = corr.sure_figures(tokens, tokens, truth, 10_000)
    assert one["recall@5px"] == 1.0, "the surest is exact"
    assert 0.5 <= every["recall@5px"] < 0.75, "the left half has no right answer"


def test_bins() -> None:
    edges = corr.ANGLES
    names = corr.bin_names(edges, "deg")
    assert names == ["0-15deg", "15-30deg", "30-60deg", "60-180deg"]
    for value, name in ((0, 0), (14.99, 0), (15, 1), (59.9, 2), (60, 3), (180, 3)):
        assert corr.bin_of(value, edges, "deg") == names[name]
    assert corr.bin_of(7.0, corr.BASELINES, "depth") == "0.5depth+"
    for wrong in (-1.0, 181.0, math.nan):
        with pytest.raises(ValueError, match="no bin"):
            corr.bin_of(wrong, edges, "deg")


# --- pairs --------------------------------------------------------------------------------------


def ring(step: float, count: int, spread: float = 0.0) -> PosedViews:
    """Cameras that turn on one spot inside a sphere of radius 4."""
    cameras = [camera(step * i, move=spread * i, width=32, height=24) for i in range(count)]
    places = grid_places(32, 24) * torch.tensor([32, 24])
    rays = torch.cat([places, torch.ones(len(places), 1)], 1) @ torch.linalg.inv(cameras[0].Ks[0]).T
    depth = (4 / rays.norm(dim=1)).view(24, 32).float()
    view = View("v", Path("v"), torch.eye(4), torch.eye(3), 32, 24)
    return PosedViews("ring", (view,) * count, (depth,) * count, stack_cameras(cameras), ())


def test_pairs_are_spread_over_the_angles() -> None:
    posed = ring(8.0, 45)  # a full turn; the view is 30 degrees wide
    settings = CorrSettings(pairs=60, min_overlap=0.1)
    pairs = choose_pairs(posed, settings, 0, ignore)
    assert Counter(pair.bins[0] for pair in pairs) == {"0-15deg": 30, "15-30deg": 30}
    assert len({(p.first, p.second) for p in pairs}) == 60
    assert all(pair.first != pair.second and pair.baseline == 0 for pair in pairs)
    assert all(pair.bins[1] == "0-0.1depth" for pair in pairs)
    for pair in pairs[:5]:
        viewmats = posed.cameras.viewmats[[pair.first, pair.second]]
        assert pair.angle == pytest.approx(float(rotation_angle(*viewmats)))
    assert pairs == choose_pairs(posed, settings, 0, ignore)
    assert pairs != choose_pairs(posed, settings, 1, ignore)


def test_a_sparse_bin_leaves_its_share_to_the_others() -> None:
    posed = ring(13.0, 6)
    settings = CorrSettings(pairs=16, min_overlap=0.1)
    counts = Counter(pair.bins[0] for pair in choose_pairs(posed, settings, 0, ignore))
    assert counts == {"0-15deg": 8, "15-30deg": 8}
    counts = Counter(
        pair.bins[0] for pair in choose_pairs(posed, settings.model_copy(update={"pairs": 99}), 0,
                                              ignore)
    )  # fmt: skip
    assert counts == {"0-15deg": 10, "15-30deg": 8}, "every ordered pair once"
    counts = Counter(
        p.bins[0] for p in choose_pairs(posed, CorrSettings(pairs=17, min_overlap=0.1), 0, ignore)
    )
    assert counts == {"0-15deg": 9, "15-30deg": 8}


def test_pairs_that_do_not_overlap_or_turn_too_far_are_left_out() -> None:
    with pytest.raises(DatasetError, match="no two of 4 views overlap by 30%"):
        choose_pairs(ring(90.0, 4), CorrSettings(), 0, ignore)
    near = choose_pairs(ring(4.0, 10), CorrSettings(max_angle=9.0), 0, ignore)
    assert {round(pair.angle) for pair in near} == {4, 8}
    most = choose_pairs(ring(4.0, 10), CorrSettings(min_overlap=0.8), 0, ignore)
    assert {round(pair.angle) for pair in most} == {4}


# --- sources and the whole task -----------------------------------------------------------------

VIEWS = 8


def midget(seed: int = 0) -> Backbone:
    arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 48}
    with seeded(seed):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **arguments,
        )  # fmt: skip
    return Backbone("midget", "vit_tiny_patch16_224", model, model_args=arguments).eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room with depth, one without, and the scene that was lifted from the latter."""
    root = tmp_path_factory.mktemp("corr")
    write_room(root / "hall", 0, views=VIEWS, width=64, height=48)
    views = read_capture(root / "hall").views
    (root / "blind").mkdir()
    frames = []
    for view in views:
        shutil.copy(view.image_path, root / "blind" / view.image_path.name)
        pose = torch.linalg.inv(view.viewmat) @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
        frames.append({"file_path": view.image_path.name, "transform_matrix": pose.tolist()})
    K = views[0].K.tolist()
    told = {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2], "w": 64, "h": 48}
    (root / "blind" / "transforms.json").write_text(json.dumps({**told, "frames": frames}), "utf-8")
    write_model_directory(root / "midget", midget(), card="", extra={})
    settings = LiftSettings.model_validate({
        "backbone": {"name": str(root / "midget"), "width": 64},
        "geometry": {"width": 48, "iterations": 20, "init_gaussians": 250, "densify": False},
        "features": {"dim": 4},
    })  # fmt: skip
    lift_captures([root / "blind"], settings, workspace=root / "ws", device="cpu", seed=0,
                  on_event=ignore)  # fmt: skip
    return root


def question(home: Path, dataset: str, max_images: int = 0, **changes: object) -> Question:
    settings = ProbeSettings.model_validate({
        "backbone": {"width": 64}, "models": ("base", "tuned", "concat", "sum"),
        "corr": {"pairs": 12, "min_overlap": 0.05, "stride": 8, **changes},
        "max_images": max_images,
    })  # fmt: skip
    return Question("corr", dataset, home, settings, Workspace(home / "ws"), torch.device("cpu"))


def test_the_whole_task(home: Path) -> None:
    asked = question(home, str(home / "hall"))
    prepared = TASKS.get("corr").prepare(asked)
    assert prepared.pictures and all(path.is_file() for path in prepared.pictures)
    models = {"base": midget(), "tuned": midget(1)}
    report = prepared.measure(models)
    assert (report.task, report.dataset, report.over) == ("corr", "hall", "pairs")
    assert [row.model for row in report.rows] == ["base", "tuned", "concat", "sum"]
    base, tuned = report.rows[:2]
    assert base.figures["recall@1patch"].n == report.count <= 12
    assert not base.differences and set(tuned.differences) == set(tuned.figures)
    bins = [name for name in base.figures if name.startswith("recall@1patch:") and "deg" in name]
    assert sum(base.figures[name].n for name in bins) == report.count
    assert list(base.figures)[:9] == [
        "recall@1patch", "recall@2patch", "ape", "pcdp@.05", "pcdp@.1", "pcdp@.2", "recall@5px",
        "recall@10px", "recall@20px",
    ]  # fmt: skip
    assert any(f"{VIEWS} of {VIEWS} views have it" in note for note in report.notes)
    assert TASKS.get("corr").prepare(asked).measure(models) == report


def test_a_model_against_itself_differs_by_nothing(home: Path) -> None:
    same = {"base": midget(), "tuned": midget()}
    report = TASKS.get("corr").prepare(question(home, str(home / "hall"))).measure(same)
    for row in report.rows[1:]:
        for name, figure in row.differences.items():
            assert figure.value == pytest.approx(0, abs=1e-9), (row.model, name)


def test_depth_comes_from_the_scene_where_the_capture_has_none(home: Path) -> None:
    for dataset in (str(home / "blind"), str(home / "ws" / "scenes" / "blind.f3d"), "blind"):
        posed = open_posed(question(home, dataset))
        assert posed.name == "blind" and len(posed) == VIEWS
        assert "rendered" in posed.notes[0] and "held out" in posed.notes[-1]
        known = torch.stack(list(posed.depths)) > 0
        assert float(known.double().mean()) > 0.05
    measured = open_posed(question(home, str(home / "hall")))
    assert measured.depths[0].shape == (240, 320)
    assert measured.cameras.sizes.tolist() == [[320, 240]] * VIEWS


def test_photos_beside_their_scene_do_not_hide_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blind").mkdir()
    assert len(open_posed(question(home, "blind"))) == VIEWS


def test_what_cannot_be_measured_is_said(home: Path, tmp_path: Path) -> None:
    for dataset, depth, error, words in (
        ("nowhere", "auto", UnknownNameError, "no capture or scene 'nowhere'"),
        (str(home / "blind"), "capture", DatasetError, "0 views have depth"),
        (str(home / "hall"), "rendered", DatasetError, "no lifted scene to render depth from"),
        (str(tmp_path), "auto", CaptureError, "neither a capture"),
    ):
        with pytest.raises(error, match=words):
            open_posed(question(home, dataset, depth=depth))
    fused = question(home, str(home / "hall"))
    settings = fused.settings.model_copy(update={"models": ("base", "fused")})
    with pytest.raises(SettingsError, match="trains nothing"):
        TASKS.get("corr").prepare(Question("corr", fused.dataset, home, settings, fused.place,
                                           fused.device))  # fmt: skip


def test_at_most_so_many_views_are_used(home: Path) -> None:
    posed = open_posed(question(home, str(home / "hall"), max_images=4))
    assert [view.name for view in posed.views] == sorted({v.name for v in posed.views})
    assert len(posed) == 4 and f"4 of {VIEWS} views" in posed.notes[-1]
