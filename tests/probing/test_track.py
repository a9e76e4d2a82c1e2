import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.datasets.tapvid import NAME
from fit3d_cli.errors import DatasetError, SettingsError, UnknownNameError
from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.probing.matching_tasks.track_scores import THRESHOLDS, Tracks, track_scores
from fit3d_cli.probing.matching_tasks.tracker import Tracker, TrackerRules
from fit3d_cli.probing.tasks.base import TASKS, Question
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings, ProbeSettings
from fit3d_cli.workspace import Workspace

Colours = Callable[..., Any]

SHARP = TrackerRules(radius=0.12, temperature=0.002, anchor=0.7, visible=0.6)


# --- TAP-Vid's figures, by hand ---


def test_scores_by_hand() -> None:
    """One query in frame 1 of 4: frames 0, 2 and 3 count; frame 3 is hidden in truth."""
    truth = Tracks(torch.full((1, 4, 2), 0.5), torch.tensor([[False, False, False, True]]))
    places = truth.places.clone()
    places[0, 0, 0] += 3 / 256  # 3 px off, shown
    places[0, 1, 0] += 0.4  # the query's own frame never counts
    places[0, 2, 1] += 10 / 256  # 10 px off, hidden
    predicted = Tracks(places, torch.tensor([[False, True, True, False]]))
    scores = track_scores(truth, predicted, torch.tensor([1]))
    assert [scores[f"delta@{d}"] for d in THRESHOLDS] == [0, 0, 0.5, 0.5, 1]
    assert scores["delta_avg"] == pytest.approx(0.4)
    # Two visible frames. Shown: frame 0 (right from 4 px on) and frame 3 (always wrong).
    # d = 1, 2: TP 0, FP 2 -> 0. d = 4, 8, 16: TP 1, visible 2, FP 1 -> 1/3.
    assert scores["aj"] == pytest.approx(3 * (1 / 3) / 5)
    assert scores["oa"] == pytest.approx(1 / 3)  # only frame 0


def test_scores_of_a_perfect_and_a_shifted_tracker() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(6, 9, 2, generator=generator)
    hidden = torch.rand(6, 9, generator=generator) < 0.3
    truth = Tracks(places, hidden)
    frames = torch.arange(6)
    assert set(track_scores(truth, truth, frames).values()) == {1.0}
    moved = track_scores(truth, Tracks(places + 1.5 / 256, hidden), frames)
    # sqrt(2) * 1.5 = 2.12 pixels
    assert [moved[f"delta@{d}"] for d in THRESHOLDS] == [0, 0, 1, 1, 1]
    assert moved["aj"] == pytest.approx(0.6) and moved["oa"] == 1


def test_the_threshold_itself_is_too_far() -> None:
    truth = Tracks(torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.bool))
    places = torch.zeros(1, 2, 2)
    places[0, 1, 0] = 4 / 256
    scores = track_scores(truth, Tracks(places, truth.occluded), torch.tensor([0]))
    assert [scores[f"delta@{d}"] for d in THRESHOLDS] == [0, 0, 0, 1, 1]


def test_scores_match_an_independent_count() -> None:
    rng = np.random.default_rng(5)
    queries, frames = 7, 11
    truth = rng.random((queries, frames, 2))
    guess = truth + rng.normal(0, 6 / 256, truth.shape)
    hidden, dark = rng.random((2, queries, frames)) < 0.4
    starts = rng.integers(0, frames, queries)
    jaccards, deltas = [], []
    for limit in THRESHOLDS:
        tp = fp = fn = near_visible = visible = 0
        for q in range(queries):
            for t in range(frames):
                if t == starts[q]:
                    continue
                near = math.dist(truth[q, t] * 256, guess[q, t] * 256) < limit
                visible += not hidden[q, t]
                near_visible += near and not hidden[q, t]
                correct = near and not hidden[q, t] and not dark[q, t]
                tp += correct
                fp += (not dark[q, t]) and not correct
                fn += (not hidden[q, t]) and not correct
        jaccards.append(tp / (tp + fp + fn))
        deltas.append(near_visible / visible)
    scores = track_scores(
        Tracks(torch.from_numpy(truth), torch.from_numpy(hidden)),
        Tracks(torch.from_numpy(guess), torch.from_numpy(dark)),
        torch.from_numpy(starts),
    )
    # TAP-Vid counts a shown, misplaced, visible point as false positive and as false negative.
    assert scores["aj"] == pytest.approx(np.mean(jaccards))
    assert scores["delta_avg"] == pytest.approx(np.mean(deltas))


def test_nothing_to_score_is_nan() -> None:
    empty = Tracks(torch.zeros(0, 3, 2), torch.zeros(0, 3, dtype=torch.bool))
    assert all(math.isnan(v) for v in track_scores(empty, empty, torch.zeros(0).long()).values())
    hidden = Tracks(torch.zeros(1, 3, 2), torch.tensor([[False, True, True]]))
    scores = track_scores(hidden, hidden, torch.tensor([0]))
    assert scores["oa"] == 1 and math.isnan(scores["delta_avg"]) and math.isnan(scores["aj"])


# --- the tracker ---


def moving_map(frames: int = 6, side: int = 12, seed: int = 0) -> torch.Tensor:
    """A random feature map that moves one token to the right per frame."""
    world = torch.randn(side, side + frames, 24, generator=torch.Generator().manual_seed(seed))
    return torch.stack([world[:, frames - t : frames - t + side] for t in range(frames)])


def test_a_moving_map_is_followed_both_ways() -> None:
    features = moving_map()
    start = torch.tensor([[(5 + 0.5) / 12, (7 + 0.5) / 12]])
    tracks = Tracker(features, 1.0, SHARP).track(start, torch.tensor([2]))
    expected = torch.stack([torch.tensor([(3 + t + 0.5) / 12, 7.5 / 12]) for t in range(6)])
    torch.testing.assert_close(tracks.places[0], expected, atol=1e-3, rtol=0)
    assert not tracks.occluded.any()


def test_a_point_that_leaves_is_occluded() -> None:
    features = moving_map()
    start = torch.tensor([[9.5 / 12, 4.5 / 12]])  # outside from frame 3 on
    tracks = Tracker(features, 1.0, SHARP).track(start, torch.tensor([0]))
    assert tracks.occluded[0].tolist() == [False, False, False, True, True, True]


def test_a_similar_place_that_does_not_lead_back_is_occluded() -> None:
    """In frame 3 the point is hidden, and another one looks 0.68 alike: above "visible"."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(6, 8, 8, 64, generator=generator)
    features = torch.nn.functional.normalize(features, dim=-1)
    first, second = features[0, 2, 2].clone(), features[0, 6, 6].clone()
    second = torch.nn.functional.normalize(second - (first @ second) * first, dim=0)
    for frame in range(6):
        features[frame, 2, 2], features[frame, 6, 6] = first, second
    features[3, 2, 2] = features[0, 4, 4]
    # Nearer to the second point than to the first, yet nearest to the first in its frame.
    # Its cosine of 0.68 is no anchor's and passes for visible: only the way back tells.
    features[3, 6, 6] = torch.nn.functional.normalize(0.68 * first + 0.73 * second, dim=0)
    start = torch.tensor([[2.5 / 8, 2.5 / 8]])
    tracks = Tracker(features, 1.0, SHARP).track(start, torch.tensor([0]))
    assert tracks.occluded[0].tolist() == [False, False, False, True, False, False]
    lax = TrackerRules(SHARP.radius, SHARP.temperature, -1.0, 0.6)  # every frame is an anchor
    assert not Tracker(features, 1.0, lax).track(start, torch.tensor([0])).occluded[0, 1]


def test_visibility_equals_the_definition_in_loops() -> None:
    generator = torch.Generator().manual_seed(7)
    world = torch.randn(9, 9, 12, generator=generator)
    features = world + 0.75 * torch.randn(8, 9, 9, 12, generator=generator)
    rules = TrackerRules(radius=0.12, temperature=0.1, anchor=0.7, visible=0.6)
    tracker = Tracker(features, 0.5, rules)
    starts = torch.rand(20, 2, generator=generator)
    frames = torch.arange(20) % 8
    tracks = tracker.track(starts, frames)
    kinds = set()
    for query in range(20):
        places = tracks.places[query]
        along = [interpolate(features[t], places[t][None])[0] for t in range(8)]
        own = along[int(frames[query])]
        cosine = [float(torch.cosine_similarity(own, one, dim=0)) for one in along]
        anchors = [t for t in range(8) if cosine[t] >= 0.7]
        middle = []
        for t in range(8):
            away = []
            for anchor in anchors:
                x, y = (tracker.find(along[t][None], anchor)[0] - places[anchor]).tolist()
                away.append(math.hypot(x, 0.5 * y))
            middle.append(sorted(away)[(len(away) - 1) // 2])
        limit = max(middle[t] for t in anchors)
        for t in range(8):
            hidden = (middle[t] > limit, cosine[t] < 0.6)
            kinds.add(hidden)
            assert bool(tracks.occluded[query, t]) == any(hidden), (query, t)
    assert len(kinds) == 4  # each reason alone, both, neither


def test_soft_argmax_averages_near_tokens_only() -> None:
    grid = torch.zeros(1, 1, 5, 2)
    grid[0, 0] = torch.tensor([[0, 1.0], [1, 0], [1, 0], [0, 1.0], [1, 0]])
    tracker = Tracker(grid, 0.2, TrackerRules(0.25, 1e-4, 0.7, 0.6))
    # The arg-max is the first of the equal tokens, 1; its neighbour 2 is within a quarter, 4 not.
    place = tracker.find(torch.tensor([[3.0, 0.0]]), 0)
    torch.testing.assert_close(place, torch.tensor([[2.0 / 5, 0.5]]))
    # With the published temperature of 1 all tokens of the disc weigh alike, up to a factor e.
    warm = Tracker(grid, 0.2, TrackerRules(0.25, 1.0, 0.7, 0.6)).find(torch.tensor([[3.0, 0.0]]), 0)
    e = math.e
    expected = (0.1 * 1 + 0.3 * e + 0.5 * e) / (1 + 2 * e)
    torch.testing.assert_close(warm, torch.tensor([[expected, 0.5]]))


def test_the_radius_is_round_on_the_picture() -> None:
    grid = torch.ones(1, 4, 4, 2)
    narrow = Tracker(grid, 4.0, TrackerRules(0.3, 1.0, 0.7, 0.6))  # four times as tall as wide
    place = narrow.find(torch.ones(1, 2), 0)
    assert place[0].tolist() == pytest.approx([(0.125 + 0.375) / 2, 0.125])


def test_no_queries() -> None:
    tracks = Tracker(moving_map(3), 1.0, SHARP).track(torch.zeros(0, 2), torch.zeros(0).long())
    assert tracks.places.shape == (0, 3, 2) and tracks.occluded.shape == (0, 3)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    frames = torch.arange(9) % 6
    whole = Tracker(moving_map(), 1.0, SHARP).track(starts, frames)
    monkeypatch.setattr("fit3d_cli.probing.matching_tasks.tracker._CHUNK_VALUES", 300)
    parts = Tracker(moving_map(), 1.0, SHARP).track(starts, frames)
    torch.testing.assert_close(whole.places, parts.places, atol=1e-5, rtol=0)
    assert torch.equal(whole.occluded, parts.occluded)


# --- the task ---


def clip(seed: int, frames: int = 6) -> dict[str, Any]:
    """Cells of 8 pixels that move one cell to the right per frame; two points that stay inside."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (8, 12 + frames, 3)).astype(np.uint8)
    world = np.kron(cells, np.ones((8, 8, 1), np.uint8))
    video = np.stack([world[:, 8 * (frames - t) : 8 * (frames - t) + 96] for t in range(frames)])
    x = (np.array([2, 4])[:, None] + np.arange(frames) + 0.5) / 12
    y = np.broadcast_to((np.array([3, 5])[:, None] + 0.5) / 8, x.shape)
    return {
        "video": video,
        "points": np.stack([x, y], axis=-1).astype(np.float32),
        "occluded": np.zeros((2, frames), bool),
    }


def tree(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / NAME).write_bytes(pickle.dumps({"b": clip(1), "a": clip(0)}, protocol=4))
    return root


def question(root: Path, place: Path, **settings: Any) -> Question:
    settings.setdefault("models", ("base",))
    settings.setdefault("backbone", BackboneSettings(width=96))
    settings.setdefault("track", {"radius": 40, "temperature": 0.002})
    return Question(
        task="track", dataset="tapvid-davis", root=root, settings=ProbeSettings(**settings),
        place=Workspace(place), device=torch.device("cpu"),
        cache_dir=Workspace(place).cache_dir / "tokens",
    )  # fmt: skip


def measure(asked: Question, **models: Any) -> Report:
    return TASKS.get("track").prepare(asked).measure(models)


def test_moving_cells_are_tracked(tmp_path: Path, colours: Colours) -> None:
    asked = question(
        tree(tmp_path / "data"), tmp_path / "w", models=("base", "tuned", "concat", "sum"),
        drift_images=1,
    )  # fmt: skip
    events: list[Progress] = []
    prepared = TASKS.get("track").prepare(replace(asked, on_event=events.append))
    (frame,) = prepared.pictures
    assert frame.is_file() and frame.is_relative_to(tmp_path / "w")
    report = prepared.measure({"base": colours(6.0), "tuned": colours(1e-6)})
    assert "a: 6 of 6 frames" in {event.note for event in events}
    assert (events[-1].done, events[-1].total) == (2, 2)
    assert (report.over, report.count) == ("videos", 2)
    base, tuned, concat, _ = report.rows
    assert base.metrics["delta_avg"] > 0.75 and base.metrics["delta@8"] == 1
    assert concat.metrics["delta@8"] == 1
    assert tuned.metrics["delta@8"] < 0.2  # features that are the same everywhere
    assert tuned.differences["aj"].n == 2
    assert len(base.samples["aj"]) == 2
    assert {"aj", "delta_avg", "oa"} <= set(base.metrics)
    assert any("96x64" in note for note in report.notes)


def test_same_bytes_with_and_without_cache(tmp_path: Path, colours: Colours) -> None:
    asked = question(tree(tmp_path / "data"), tmp_path / "w")
    first, again = (measure(asked, base=colours(6.0)).to_dict() for _ in range(2))
    assert first == again


def test_fewer_videos_and_settings_matter(tmp_path: Path, colours: Colours) -> None:
    root = tree(tmp_path / "data")
    few = measure(question(root, tmp_path / "w", max_images=1), base=colours(6.0))
    assert few.count == 1
    strict = {"radius": 40, "temperature": 0.002, "visible": 1.0, "anchor": 1.0}
    hidden = measure(question(root, tmp_path / "w", track=strict), base=colours(6.0))
    assert hidden.rows[0].metrics["oa"] < few.rows[0].metrics["oa"]
    warm = measure(question(root, tmp_path / "w", track={"radius": 300}), base=colours(6.0))
    assert warm.rows[0].metrics["delta@8"] < few.rows[0].metrics["delta@8"]


def test_refusals(tmp_path: Path) -> None:
    task = TASKS.get("track")
    with pytest.raises(SettingsError, match="trains nothing"):
        task.prepare(question(tree(tmp_path / "d"), tmp_path / "w", models=("fused",)))
    with pytest.raises(DatasetError, match="not found"):
        task.prepare(question(tmp_path / "none", tmp_path / "w"))
    asked = question(tmp_path, tmp_path / "w")
    with pytest.raises(UnknownNameError, match="tapvid-davis"):
        task.prepare(Question("track", "x", asked.root, asked.settings, asked.place, asked.device))


def test_a_random_backbone_end_to_end(tmp_path: Path, run_random: Callable[..., Any]) -> None:
    made = [
        run_random(
            "track",
            "tapvid-davis",
            tree(tmp_path / "data"),
            tmp_path / name,
            backbone={"width": 96},
        )
        for name in ("first", "second")
    ]
    first, second = (probed.path.read_bytes() for probed in made)
    report = made[0].report
    assert made[0].path.name == "track-tapvid-davis.json"
    assert [row.model for row in report.rows] == ["base", "tuned", "concat", "sum"]
    assert first == second  # same seed, same bytes
    assert Report.from_json(first.decode(), where="x").rows[0].metrics == report.rows[0].metrics
    assert {"cosine", "norm_ratio"} <= set(report.drift)
    for row in report.rows:
        assert all(0 <= figure.value <= 1 for figure in row.figures.values())
