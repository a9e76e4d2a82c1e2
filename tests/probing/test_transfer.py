import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate as enlarge

from fit3d_cli.datasets.pfpascal import CATEGORIES
from fit3d_cli.errors import DatasetError, ImageError, SettingsError, UnknownNameError
from fit3d_cli.images import save_png
from fit3d_cli.probing.matching_tasks.pck import category_pck, hits, shared_groups
from fit3d_cli.probing.matching_tasks.peaks import best_pixels, enlarged_norms
from fit3d_cli.probing.matching_tasks.pictures import Letterbox, chosen_width, spread
from fit3d_cli.probing.tasks.base import TASKS, Question
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings, ProbeSettings
from fit3d_cli.statistics import Measured, make_rows
from fit3d_cli.workspace import Workspace

Colours = Callable[..., Any]


def question(
    root: Path, task: str, dataset: str, place: Path | None = None, **settings: Any
) -> Question:
    settings.setdefault("models", ("base",))
    return Question(
        task=task, dataset=dataset, root=root, settings=ProbeSettings(**settings),
        place=Workspace(place or root / "out"), device=torch.device("cpu"), seed=3,
        cache_dir=None if place is None else Workspace(place).cache_dir / "tokens",
    )  # fmt: skip


def measure(asked: Question, **models: Any) -> Report:
    return TASKS.get(asked.task).prepare(asked).measure(models)


# --- arg-max over the enlarged map ---


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (5, 7)])
@pytest.mark.parametrize("size", [(3, 2), (28, 20), (31, 17)])
def test_norms_and_peaks_equal_the_enlarged_map(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    grid = torch.randn(*shape, 6, generator=generator, dtype=torch.float64)
    queries = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    width, height = size
    wide = enlarge(grid.permute(2, 0, 1)[None], (height, width), mode="bilinear")[0]
    torch.testing.assert_close(enlarged_norms(grid, width, height), wide.norm(dim=0))
    cosine = torch.einsum("kc,cyx->kyx", queries, wide) / wide.norm(dim=0)
    found = best_pixels(queries, grid, width, height)
    value = cosine[torch.arange(9), found[:, 1].long(), found[:, 0].long()]
    # By value: on the plateaus at the border pixels tie up to the last bits.
    torch.testing.assert_close(value, cosine.flatten(1).amax(1), atol=1e-12, rtol=0)


def test_the_length_of_a_token_does_not_attract() -> None:
    grid = torch.zeros(1, 3, 2)
    grid[0] = torch.tensor([[1.0, 0.0], [50.0, 50.0], [0.0, 1.0]])
    found = best_pixels(torch.tensor([[7.0, 0.0]]), grid, 6, 2)
    assert found.tolist() == [[0.5, 0.5]]  # the dot product is largest at the middle token


def test_no_queries_and_empty_tokens() -> None:
    assert best_pixels(torch.zeros(0, 2), torch.ones(2, 2, 2), 4, 4).shape == (0, 2)
    assert best_pixels(torch.ones(1, 2), torch.zeros(2, 2, 2), 4, 4).tolist() == [[0.5, 0.5]]


# --- PCK ---


def test_hits_are_strictly_closer_than_the_threshold() -> None:
    truth = torch.tensor([[100.0, 100.0]] * 5)
    offsets = [[0, 0], [41.9, 0], [42.0, 0], [0, -83.9], [126.0, 0]]
    predicted = truth + torch.tensor(offsets)
    assert hits(predicted, truth, 840).tolist() == [2, 4, 4]  # 42, 84 and 126 pixels
    assert hits(torch.zeros(0, 2), torch.zeros(0, 2), 840).tolist() == [0, 0, 0]


def test_category_means_by_hand() -> None:
    # Category 2: 3 of 4 and 1 of 6 points, so 4/10 over two pairs; category 0: 1 of 2, one pair.
    right = torch.tensor([3.0, 1.0, 1.0, 0.0, 0.0]).double()
    points = torch.tensor([4.0, 6.0, 2.0, 0.0, 9.0]).double()
    categories = [2, 2, 0, 0, 2]
    scored = torch.tensor([True, True, True, True, False])
    for by_pairs, expected in ((False, (0.4 + 0.5) / 2), (True, (2 * 0.4 + 0.5) / 3)):
        pooled = category_pck(right, points, categories, scored, by_pairs=by_pairs)
        (row,) = make_rows({"base": Measured(pooled={"pck": pooled})}, groups=[0, 1, 2, 2, 0])
        assert row.figures["pck"].value == pytest.approx(expected)
        assert row.figures["pck"].n == 3


def test_a_category_that_is_drawn_twice_counts_twice() -> None:
    right, points = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 5.0]).double()
    pooled = category_pck(right, points, [0, 1], torch.tensor([True, True]), by_pairs=False)
    assert float(pooled.reduce(2 * pooled.sums[0] + pooled.sums[1])) == pytest.approx(2 / 3)


def test_groups_join_pairs_that_share_pictures() -> None:
    assert shared_groups([("a", "b"), ("c", "d"), ("b", "e"), ("f", "f"), ("d", "g")]) == [
        0, 1, 0, 2, 1,
    ]  # fmt: skip
    assert shared_groups([]) == []


# --- sizes ---


def test_letterbox_keeps_the_aspect_and_centres(tmp_path: Path) -> None:
    wide, tall = Letterbox.of(200, 100, 840), Letterbox.of(100, 200, 840)
    assert (wide.width, wide.height, wide.offset) == (840, 420, (0, 210))
    assert (tall.width, tall.height, tall.offset) == (420, 840, (210, 0))
    assert wide.place(torch.tensor([[10.0, 20.0]])).tolist() == [[42, 294]]
    save_png(tmp_path / "x.png", np.full((2, 4, 3), 255, np.uint8))
    image = Letterbox.of(4, 2, 8).item(tmp_path / "x.png").load()
    assert image.shape == (8, 8, 3)
    assert image[2:6].min() == 1 and image[:2].max() == 0 and image[6:].max() == 0
    assert Letterbox.of(1000, 1, 16).height == 1


def test_the_width_is_the_published_one_unless_it_is_set() -> None:
    assert chosen_width(ProbeSettings(), 840) == 840
    assert chosen_width(ProbeSettings(backbone=BackboneSettings(batch=2)), 840) == 840
    default = BackboneSettings().width
    assert chosen_width(ProbeSettings(backbone=BackboneSettings(width=default)), 840) == default


def test_spread_is_even_and_starts_at_the_first() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == spread(2, 0) == [0, 1]


# --- the task ---


def picture(path: Path, cells: np.ndarray, side: int = 8) -> None:
    save_png(path, np.kron(cells, np.ones((side, side, 1), np.uint8)).astype(np.uint8))


def tree(root: Path, *, count: int = 3) -> Path:
    """Pairs whose target is the source, mirrored; points lie at the centres of cells."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        cells = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        picture(root / "JPEGImages" / f"{number}a.jpg", cells)
        picture(root / "JPEGImages" / f"{number}b.jpg", cells[:, ::-1])
        at = [(1, 1), (6, 2), (4, 4), (2, 5)]
        xa = ";".join(str(8 * x + 4) for x, _ in at)
        xb = ";".join(str(8 * (7 - x) + 4) for x, _ in at)
        ys = ";".join(str(8 * y + 4) for _, y in at)
        rows.append(
            f"PF-dataset-PASCAL/JPEGImages/{number}a.jpg,PF-dataset-PASCAL/JPEGImages/{number}b.jpg,"
            f"{number % 2 + 1},{xa},{ys},{xb},{ys}\n"
        )
    head = "source_image,target_image,class,XA,YA,XB,YB\n"
    (root / "test_pairs_pf_different_views.csv").write_text(head + "".join(rows[:2]))
    (root / "test_pairs_pf_same_views.csv").write_text(head + "".join(rows[2:]))
    return root


def test_mirrored_pictures_are_transferred(tmp_path: Path, colours: Colours) -> None:
    asked = question(
        tree(tmp_path), "transfer", "pf-pascal", models=("base", "tuned", "concat", "sum"),
        backbone=BackboneSettings(width=64),
    )  # fmt: skip
    events: list[Progress] = []
    asked = replace(asked, on_event=events.append)
    prepared = TASKS.get("transfer").prepare(asked)
    assert len(prepared.pictures) == 6 and all(path.is_file() for path in prepared.pictures)
    report = prepared.measure({"base": colours(5.0), "tuned": colours(1e-6)})
    assert (report.task, report.dataset, report.over) == ("transfer", "pf-pascal", "pairs")
    assert report.count == 3
    base, tuned, concat, both = report.rows
    assert [row.model for row in report.rows] == ["base", "tuned", "concat", "sum"]
    for view in ("different", "same"):
        for tail in ("", " by pairs"):
            assert base.metrics[f"{view} pck@0.05{tail}"] == 1.0
            assert concat.metrics[f"{view} pck@0.05{tail}"] == 1.0
    # Features that are the same everywhere lead to the first pixel.
    assert tuned.metrics["different pck@0.05"] == 0 and tuned.metrics["pck@0.15 of a pair"] == 0
    assert both.metrics["pck@0.10 of a pair"] == 1.0
    assert tuned.differences["pck@0.05 of a pair"].value == -1
    assert base.figures["different pck@0.05"].n == 2 and base.figures["same pck@0.05"].n == 1
    assert base.samples["pck@0.05 of a pair"] == (1.0, 1.0, 1.0)
    assert (events[-1].done, events[-1].total) == (3, 3)
    assert any("64x64" in note for note in report.notes)


def test_wrong_truth_scores_nothing(tmp_path: Path, colours: Colours) -> None:
    tree(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.write_text(path.read_text().replace("b.jpg", "a.jpg"))  # nothing is mirrored now
    asked = question(tmp_path, "transfer", "pf-pascal", backbone=BackboneSettings(width=64))
    report = measure(asked, base=colours())
    assert report.rows[0].metrics["pck@0.05 of a pair"] == 0


def test_the_same_seed_gives_the_same_report_with_and_without_cache(
    tmp_path: Path, colours: Colours
) -> None:
    tree(tmp_path / "data")
    made = []
    for place in (None, tmp_path / "w", tmp_path / "w"):
        asked = question(
            tmp_path / "data", "transfer", "pf-pascal", place, backbone=BackboneSettings(width=64)
        )
        made.append(measure(asked, base=colours()).to_dict())
    assert made[0] == made[1] == made[2]
    assert list((tmp_path / "w").rglob("*.safetensors"))


def test_fewer_pairs_and_pairs_without_points(tmp_path: Path, colours: Colours) -> None:
    tree(tmp_path)
    path = tmp_path / "test_pairs_pf_same_views.csv"
    lines = path.read_text().splitlines()
    lines.append(",".join([*lines[1].split(",")[:3], "1;2;3", "1;2;3", "1;2", "1;2"]))
    lines.append(",".join([*lines[1].split(",")[:3], "", "", "", ""]))
    path.write_text("\n".join(lines))
    asked = question(tmp_path, "transfer", "pf-pascal", backbone=BackboneSettings(width=64))
    report = measure(asked, base=colours(5.0))
    assert report.count == 4
    assert math.isnan(report.rows[0].samples["pck@0.05 of a pair"][-1])
    assert any(note.startswith("1 of 5 pairs list more points") for note in report.notes)
    assert report.rows[0].figures["same pck@0.05"].n == 2
    mended = measure(
        question(tmp_path, "transfer", "pf-pascal", backbone=BackboneSettings(width=64),
                 preset="fixed"),
        base=colours(5.0),
    )  # fmt: skip
    assert mended.count == 3 and mended.rows[0].figures["same pck@0.05"].n == 1
    assert mended.rows[0].metrics["same pck@0.05"] == 1 > report.rows[0].metrics["same pck@0.05"]
    assert any("not scored" in note for note in mended.notes)
    few = measure(
        question(tmp_path, "transfer", "pf-pascal", backbone=BackboneSettings(width=64),
                 max_images=1),
        base=colours(5.0),
    )  # fmt: skip
    assert few.count == 1 and "same pck@0.05" not in few.rows[0].metrics


def test_any_patch_size_comes_near_840(tmp_path: Path, colours: Colours) -> None:
    tree(tmp_path, count=1)
    for patch, side in ((14, 840), (16, 848)):
        report = measure(
            question(tmp_path, "transfer", "pf-pascal"), base=colours(patch_size=patch)
        )
        assert any(f"{side}x{side}" in note for note in report.notes)


@pytest.mark.parametrize("kept", [0, 60])
def test_a_damaged_picture_is_one_clear_line(tmp_path: Path, kept: int, colours: Colours) -> None:
    path = tree(tmp_path) / "JPEGImages" / "1b.jpg"
    path.write_bytes(path.read_bytes()[:kept])
    asked = question(tmp_path, "transfer", "pf-pascal", backbone=BackboneSettings(width=64))
    with pytest.raises(ImageError) as caught:
        measure(asked, base=colours())
    assert caught.value.where == str(path) and "\n" not in str(caught.value)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="pf-pascal"):
        TASKS.get("transfer").prepare(question(tmp_path, "transfer", "ade20k"))
    with pytest.raises(SettingsError, match="trains nothing"):
        TASKS.get("transfer").prepare(
            question(tree(tmp_path), "transfer", "pf-pascal", models=("base", "fused"))
        )
    with pytest.raises(DatasetError, match="not found"):
        TASKS.get("transfer").prepare(question(tmp_path / "none", "transfer", "pf-pascal"))
    assert TASKS.get("transfer").datasets() == ["pf-pascal"] and len(CATEGORIES) == 20


def test_a_random_backbone_end_to_end(tmp_path: Path, run_random: Callable[..., Any]) -> None:
    made = [
        run_random(
            "transfer",
            "pf-pascal",
            tree(tmp_path / "data"),
            tmp_path / name,
            backbone={"width": 64},
        )
        for name in ("first", "second")
    ]
    first, second = (probed.path.read_bytes() for probed in made)
    report = made[0].report
    assert made[0].path.name == "transfer-pf-pascal.json"
    assert [row.model for row in report.rows] == ["base", "tuned", "concat", "sum"]
    assert first == second  # same seed, same bytes
    assert Report.from_json(first.decode(), where="x").rows[0].metrics == report.rows[0].metrics
    assert {"cosine", "norm_ratio"} <= set(report.drift)
    for row in report.rows:
        assert all(0 <= figure.value <= 1 for figure in row.figures.values())
