import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.datasets.onepose import FOLDER
from fit3d_cli.errors import DatasetError, EnvironmentFault, SettingsError, UnknownNameError
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.images import save_png
from fit3d_cli.probing.matching_tasks.poses import (
    estimate_pose,
    mutual_neighbours,
    pose_error,
    require_pycolmap,
)
from fit3d_cli.probing.tasks.base import TASKS, Question
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings, ProbeSettings
from fit3d_cli.workspace import Workspace

Colours = Callable[..., Any]
WITH_PNP = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason="needs pycolmap (pip install fit3d[sfm])"
)
SIDE = 128
CAMERA = torch.tensor([[150.0, 0, 64], [0, 150, 64], [0, 0, 1]], dtype=torch.float64)
EDGE = 0.1  # metres


# --- errors, by hand ---


def motion(axis: int, degrees: float, shift: tuple[float, float, float]) -> Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    a, b = [k for k in range(3) if k != axis]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    pose[a, a], pose[a, b], pose[b, a], pose[b, b] = c, -s, s, c
    pose[:3, 3] = torch.tensor(shift)
    return pose


@pytest.mark.parametrize("degrees", [0, 1e-5, 1, 30, 90, 179.999, 180])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pose_error_by_hand(axis: int, degrees: float) -> None:
    first = motion(axis, 20, (0.1, 0.2, 0.3))
    second = motion(axis, 20 + degrees, (0.13, 0.24, 0.3))
    angle, distance = pose_error(first, second)
    assert angle == pytest.approx(degrees, rel=1e-6, abs=1e-9)
    assert distance == pytest.approx(5)  # a 3-4-5 triangle, centimetres


def test_pose_error_is_the_published_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        pair = [torch.eye(4, dtype=torch.float64) for _ in range(2)]
        for pose in pair:
            q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
            q = q * torch.diagonal(r).sign()
            pose[:3, :3] = q * torch.linalg.det(q).sign()
        trace = float(torch.trace(pair[0][:3, :3] @ pair[1][:3, :3].T))
        expected = math.degrees(math.acos(min(1, max(-1, (trace - 1) / 2))))
        assert pose_error(*pair)[0] == pytest.approx(expected, abs=1e-6)


# --- mutual neighbours ---


@pytest.mark.parametrize("chunk", [1, 70, 10**6])
def test_mutual_neighbours_equal_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fit3d_cli.probing.matching_tasks.poses._CHUNK_VALUES", chunk)
    generator = torch.Generator().manual_seed(4)
    first, second = (
        torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1)
        for n in (40, 23)
    )
    cosine = first @ second.T
    expected = [
        (i, j)
        for i in range(40)
        for j in range(23)
        if cosine[i].argmax() == j and cosine[:, j].argmax() == i
    ]
    here, there = mutual_neighbours(first, second)
    assert list(zip(here.tolist(), there.tolist(), strict=True)) == expected
    assert 3 < len(expected) < 23


@pytest.mark.parametrize("chunk", [1, 10**6])
def test_mutual_neighbours_of_equal_and_no_features(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fit3d_cli.probing.matching_tasks.poses._CHUNK_VALUES", chunk)
    same = torch.ones(4, 2)
    assert [x.tolist() for x in mutual_neighbours(same, same)] == [[0], [0]]
    assert [len(x) for x in mutual_neighbours(torch.zeros(0, 2), same)] == [0, 0]
    assert [len(x) for x in mutual_neighbours(same, torch.zeros(0, 2))] == [0, 0]


# --- PnP ---


def seen(pose: Tensor, points: Tensor) -> Tensor:
    rays = (points @ pose[:3, :3].T + pose[:3, 3]) @ CAMERA.T
    return rays[:, :2] / rays[:, 2:]


def solve(pixels: Tensor, points: Tensor, seed: int = 0, inlier: float = 8) -> Tensor | None:
    return estimate_pose(
        pixels, points, CAMERA, (SIDE, SIDE), inlier=inlier, trials=10_000, seed=seed
    )


@WITH_PNP
def test_pnp_finds_the_pose_among_outliers() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 3, generator=generator, dtype=torch.float64) * EDGE
    truth = view(0.3)
    pixels = seen(truth, points)
    wrong = torch.randperm(200, generator=generator)[:140]
    pixels[wrong] = torch.rand(140, 2, generator=generator, dtype=torch.float64) * SIDE
    found = solve(pixels, points, inlier=1)
    assert found is not None
    degrees, centimetres = pose_error(found, truth)
    assert degrees < 0.5 and centimetres < 0.5
    again = solve(pixels, points, inlier=1)
    assert again is not None and torch.equal(found, again)  # same seed, same bytes


@WITH_PNP
def test_pnp_gives_up_on_noise_and_on_few_points() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(30, 3, generator=generator, dtype=torch.float64) * EDGE
    noise = torch.rand(30, 2, generator=generator, dtype=torch.float64) * SIDE
    assert solve(noise, points, inlier=0.05) is None
    exact = seen(view(0.3), points)
    assert solve(exact[:5], points[:5]) is None
    assert solve(exact[:0], points[:0]) is None
    assert solve(exact, points) is not None


def test_without_pycolmap_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="pip install") as caught:
        require_pycolmap()
    assert caught.value.exit_code == 3


# --- the task, on a generated object ---


def view(turn: float) -> Tensor:
    """A camera 35 cm away that looks into the corner of a box from one side."""
    eye = torch.tensor([[math.cos(0.8 + turn), math.sin(0.8 + turn), 0.75]], dtype=torch.float64)
    eye = eye / eye.norm() * 0.35
    target = torch.full((1, 3), 0.03, dtype=torch.float64)
    return look_at(eye, target, torch.tensor([0.0, 0, 1], dtype=torch.float64))[0]


def render(pose: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Colours and ``[SIDE, SIDE, 3]`` points (NaN outside): a corner whose colour is its place."""
    grid = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5), -1)
    rays = np.concatenate([grid, np.ones((SIDE, SIDE, 1))], -1) @ np.linalg.inv(CAMERA.numpy()).T
    R, t = pose[:3, :3].numpy(), pose[:3, 3].numpy()
    eye, rays = -R.T @ t, rays @ R
    best, points = np.full((SIDE, SIDE), np.inf), np.full((SIDE, SIDE, 3), np.nan)
    for axis in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -eye[axis] / rays[..., axis]
        at = eye + depth[..., None] * rays
        at[..., axis] = 0
        hit = (depth > 0) & (depth < best) & (at >= 0).all(-1) & (at <= EDGE).all(-1)
        best[hit], points[hit] = depth[hit], at[hit]
    shown = np.nan_to_num(points / EDGE * 235 + 20, nan=0).astype(np.uint8)
    return shown, points


def one_object(base: Path, name: str, turns: tuple[float, ...], queries: tuple[float, ...]) -> None:
    folder, short = base / name, name.split("-")[1]
    known: list[np.ndarray] = []
    for sequence, angles in (("1", turns), ("2", queries)):
        place = folder / f"{short}-{sequence}"
        for inner in ("intrin_ba", "poses_ba", "anno_loftr"):
            (place / inner).mkdir(parents=True)
        for number, angle in enumerate(angles):
            image, points = render(view(angle))
            save_png(place / "color" / f"{number}.png", image)
            np.savetxt(place / "intrin_ba" / f"{number}.txt", CAMERA.numpy())
            np.savetxt(place / "poses_ba" / f"{number}.txt", view(angle).numpy())
            if sequence == "1":
                y, x = (k[::7] for k in np.nonzero(np.isfinite(points).all(-1)))
                start = sum(map(len, known))
                known.append(points[y, x])
                annotation = {
                    "keypoints2d": np.stack([x + 0.5, y + 0.5], 1).tolist(),
                    "assign_matrix": [[*range(len(x))], [*range(start, start + len(x))]],
                }
                (place / "anno_loftr" / f"{number}.json").write_text(json.dumps(annotation))
    (folder / "anno").mkdir()
    np.savez(folder / "anno" / "anno_3d_average.npz", keypoints3d=np.concatenate(known))


def tree(root: Path) -> Path:
    base = root / FOLDER
    one_object(base, "0001-corner-others", (-0.2, 0.0, 0.2), (-0.1, 0.12, 0.25))
    one_object(base, "0002-niche-others", (0.0,), (0.02,))
    return root


def question(root: Path, place: Path | None, **settings: Any) -> Question:
    settings.setdefault("models", ("base",))
    settings.setdefault("pose", {"every": 1})
    return Question(
        task="pose", dataset="onepose-lowtexture", root=root, settings=ProbeSettings(**settings),
        place=Workspace(place or root / "w"), device=torch.device("cpu"), seed=1,
        cache_dir=None if place is None else Workspace(place).cache_dir / "tokens",
    )  # fmt: skip


def measure(asked: Question, **models: Any) -> Report:
    return TASKS.get("pose").prepare(asked).measure(models)


@WITH_PNP
def test_poses_of_a_generated_object(tmp_path: Path, colours: Colours) -> None:
    events: list[Progress] = []
    asked = question(
        tree(tmp_path), tmp_path / "w", models=("base", "tuned", "concat", "sum")
    )  # fmt: skip
    asked = replace(asked, on_event=events.append)
    prepared = TASKS.get("pose").prepare(asked)
    assert len(prepared.pictures) == 4
    report = prepared.measure({"base": colours(5.0), "tuned": colours(1e-6)})
    assert (report.count, report.over) == (4, "photos")
    base, tuned, concat, _ = report.rows
    assert base.metrics["5cm 5deg"] == 1 and base.metrics["3cm 3deg"] == 1
    assert concat.metrics["5cm 5deg"] == 1
    assert tuned.metrics["5cm 5deg"] == 0  # features that are the same everywhere
    assert base.figures["1cm 1deg"].n == 4
    assert (events[-1].done, events[-1].total) == (4, 4)
    again = measure(question(tmp_path, None, models=asked.settings.models),
                    base=colours(5.0), tuned=colours(1e-6))  # fmt: skip
    assert again.to_dict() == report.to_dict()


@WITH_PNP
def test_objects_weigh_the_same(tmp_path: Path, colours: Colours) -> None:
    tree(tmp_path)
    # The truth of the second object's only photo is turned: 3 of 3 and 0 of 1 photos are right.
    path = tmp_path / FOLDER / "0002-niche-others" / "niche-2" / "poses_ba" / "0.txt"
    np.savetxt(path, (motion(2, 40, (0, 0, 0)) @ view(0.02)).numpy())
    report = measure(question(tmp_path, None), base=colours(5.0))
    assert report.rows[0].metrics["5cm 5deg"] == pytest.approx(0.5)


@WITH_PNP
def test_settings_matter(tmp_path: Path, colours: Colours) -> None:
    tree(tmp_path)
    few = measure(question(tmp_path, None, max_images=2), base=colours(5.0))
    assert few.count == 2
    tenth = measure(question(tmp_path, None, pose={}), base=colours(5.0))
    assert tenth.count == 2  # the first photo of each object
    starved = measure(question(tmp_path, None, pose={"every": 1, "descriptors": 5}),
                      base=colours(5.0))  # fmt: skip
    assert starved.rows[0].metrics["5cm 5deg"] == 0
    coarse = measure(
        question(tmp_path, None, backbone=BackboneSettings(width=16)), base=colours(5.0)
    )
    assert coarse.rows[0].metrics["1cm 1deg"] < few.rows[0].metrics["5cm 5deg"]


@WITH_PNP
def test_an_object_without_points(tmp_path: Path, colours: Colours) -> None:
    tree(tmp_path)
    for path in (tmp_path / FOLDER / "0002-niche-others").rglob("*.json"):
        path.write_text('{"keypoints2d": [], "assign_matrix": [[], []]}')
    with pytest.raises(DatasetError, match="no key point has a 3D point"):
        measure(question(tmp_path, None), base=colours())


def test_refusals(tmp_path: Path) -> None:
    task = TASKS.get("pose")
    with pytest.raises(DatasetError, match="not found"):
        task.prepare(question(tmp_path / "none", None))
    with pytest.raises(SettingsError, match="trains nothing"):
        task.prepare(question(tmp_path, None, models=("fused",)))
    with pytest.raises(UnknownNameError, match="onepose-lowtexture"):
        task.prepare(replace(question(tmp_path, None), dataset="onepose"))


@WITH_PNP
def test_a_random_backbone_end_to_end(tmp_path: Path, run_random: Callable[..., Any]) -> None:
    tree(tmp_path / "data")
    made = [
        run_random(
            "pose", "onepose-lowtexture", tmp_path / "data", tmp_path / name,
            backbone={"width": 64}, pose={"every": 2, "trials": 100}, drift_images=2,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    first, second = (probed.path.read_bytes() for probed in made)
    report = made[0].report
    assert made[0].path.name == "pose-onepose-lowtexture.json"
    assert [row.model for row in report.rows] == ["base", "tuned", "concat", "sum"]
    assert first == second  # same seed, same bytes
    assert Report.from_json(first.decode(), where="x").rows[0].metrics == report.rows[0].metrics
    assert {"cosine", "norm_ratio"} <= set(report.drift)
    for row in report.rows:
        assert all(0 <= figure.value <= 1 for figure in row.figures.values())
