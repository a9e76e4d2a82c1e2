from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.image_folder import read_image_folder
from fit3d_cli.device import seeded
from fit3d_cli.errors import DatasetError, SettingsError
from fit3d_cli.images import save_png
from fit3d_cli.probing import knn
from fit3d_cli.probing.knn import class_scores, summarise, top_hits
from fit3d_cli.probing.tasks.base import TASKS, Question
from fit3d_cli.progress import ignore
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings, ClsSettings, ProbeSettings
from fit3d_cli.workspace import Workspace


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def draw(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bank_chunk", [7, 65_536])
def test_votes_are_the_direct_formula(monkeypatch: pytest.MonkeyPatch, bank_chunk: int) -> None:
    monkeypatch.setattr(knn, "_BANK", bank_chunk)
    monkeypatch.setattr(knn, "_QUERIES", 4)
    bank, labels, queries = unit(30, 6), draw(30, 5), unit(11, 6, seed=1)
    found = class_scores(bank, labels, queries, classes=5, k=9, temperature=0.07)
    for query, scores in zip(queries, found, strict=True):
        cosines = [
            (float(query @ row), int(label)) for row, label in zip(bank, labels, strict=True)
        ]
        votes = [0.0] * 5
        for cosine, label in sorted(cosines, reverse=True)[:9]:
            votes[label] += math.exp(cosine / 0.07)
        expected = torch.tensor(votes, dtype=torch.float64) / sum(votes)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-7)


def test_votes_equal_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    bank, labels, queries = unit(200, 16), draw(200, 7), unit(50, 16, seed=1)
    theirs = neighbors.KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )
    theirs.fit(bank.double().numpy(), labels.numpy())
    expected = theirs.predict_proba(queries.double().numpy())
    found = class_scores(bank, labels, queries, classes=7, k=20, temperature=0.07)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    truth = draw(50, 7, seed=3)
    right = theirs.predict(queries.double().numpy()) == truth.numpy()
    assert top_hits(found, truth, 1).tolist() == right.tolist()


def test_a_small_bank_votes_as_a_whole_and_cold_votes_stay_finite() -> None:
    bank, labels = unit(3, 4), torch.tensor([0, 1, 1])
    scores = class_scores(bank, labels, bank, classes=2, k=20, temperature=1e-6)
    assert scores.argmax(1).tolist() == [0, 1, 1]
    assert bool(scores.isfinite().all())


def test_top_hits_by_hand() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.4, 0.4, 0.2, 0.0]])
    for truth, one, two, four in (
        (0, [True, True], [True, True], [True, True]),
        (1, [False, False], [True, True], [True, True]),
        (2, [False, False], [False, False], [True, True]),
        (3, [False, False], [False, False], [False, False]),  # nobody voted for it
    ):
        asked = torch.tensor([truth, truth])
        assert [top_hits(scores, asked, n).tolist() for n in (1, 2, 4)] == [one, two, four]


def picture(path: Path, hue: int, seed: int, width: int = 24, height: int = 24) -> None:
    """A flat colour of the class with a little noise."""
    rng = np.random.default_rng(seed)
    color = np.array([hue, 255 - hue, (3 * hue) % 256])
    values = color + rng.integers(-8, 9, (height, width, 3))
    save_png(path, values.clip(0, 255).astype(np.uint8))


def folder(root: Path, *, split: bool = True, classes: int = 6) -> Path:
    for label in range(classes):
        for number in range(5):
            part = ("train" if number < 3 else "val") if split else ""
            picture(root / part / f"c{label}" / f"{number}.png", 40 * label, 10 * label + number,
                    width=24 if number else 48)  # fmt: skip
    return root


def backbone(seed: int = 0, name: str = "room-tiny") -> Backbone:
    with seeded(seed):
        return load_backbone(name, pretrained=False)


def ask(root: Path, dataset: str, cache: Path | None = None, **changes: object) -> Question:
    settings = ProbeSettings(backbone=BackboneSettings(width=24), **changes)  # type: ignore[arg-type]
    device = torch.device("cpu")
    return Question("cls", dataset, root, settings, Workspace(root), device, cache_dir=cache)


def measure(
    root: Path, models: dict[str, Backbone], cache: Path | None = None, **changes: object
) -> Report:
    asked = ask(root, str(root), cache, models=tuple(models), **changes)
    prepared = TASKS.get("cls").prepare(asked)
    return prepared.measure({k: v for k, v in models.items() if k in ("base", "tuned")})


def test_classes_are_told_apart_and_every_figure_has_its_interval(tmp_path: Path) -> None:
    base, tuned = backbone(0), backbone(1)
    rows = {"base": base, "tuned": tuned, "concat": base, "sum": base}
    report = measure(folder(tmp_path / "colours"), rows)
    assert (report.task, report.dataset, report.count) == ("cls", "colours", 12)
    assert [row.model for row in report.rows] == list(rows)
    for row in report.rows:
        assert set(row.figures) == {"top1", "top5", "patch_top1", "patch_top5"}
        assert row.figures["top1"].n == 12 == len(row.samples["top1"])
        assert row.figures["patch_top1"].value > 0.5 > 1 / 6
        assert row.figures["top1"].value <= row.figures["top5"].value
    assert set(report.rows[1].differences) == set(report.rows[1].figures)
    assert any("class token" in note for note in report.notes)


def test_shuffled_labels_are_not_found(tmp_path: Path) -> None:
    """The measurement can fail: classes without any common look are guessed."""
    for number in range(36):
        part = "train" if number % 3 else "val"
        picture(tmp_path / part / f"c{number % 4}" / f"{number}.png", 7 * number, number)
    report = measure(tmp_path, {"base": backbone()})
    assert report.rows[0].figures["top1"].value < 0.75
    assert set(report.rows[0].figures) == {"top1", "patch_top1"}  # top-5 of 4 would be idle


def test_concat_is_the_mean_cosine_of_unit_features(tmp_path: Path) -> None:
    root = folder(tmp_path / "x")
    data = read_image_folder(root, "x")
    models = {"base": backbone(0), "tuned": backbone(1)}

    def summaries(split: str) -> dict[str, torch.Tensor]:
        paths = [p.image_path for p in getattr(data, split)]
        return {
            name: summarise("", model, paths, [str(p) for p in paths], width=24, batch=4,
                            device="cpu", cache_dir=None, on_event=ignore).whole
            for name, model in models.items()
        }  # fmt: skip

    known, asked = summaries("train"), summaries("val")
    cosines = (asked["base"] @ known["base"].T + asked["tuned"] @ known["tuned"].T) / 2
    near, chosen = cosines.topk(4)
    votes = torch.zeros(len(asked["base"]), 6).scatter_add_(
        1, torch.tensor([p.label for p in data.train])[chosen], torch.exp(near / 0.07)
    )
    right = [int(v.argmax()) == p.label for v, p in zip(votes, data.val, strict=True)]
    report = measure(root, {"concat": models["base"], **models}, cls=ClsSettings(k=4))
    assert [bool(v) for v in report.rows[0].samples["top1"]] == right


def test_models_without_a_class_token_use_the_mean_patch(tmp_path: Path) -> None:
    import timm  # behind the package's own import, which guards it

    with seeded(0):
        model = timm.create_model(
            "vit_tiny_patch16_224", class_token=False, global_pool="avg", img_size=32, patch_size=8,
            embed_dim=24, depth=1, num_heads=2, num_classes=0, dynamic_img_size=True,
        )  # fmt: skip
    report = measure(folder(tmp_path / "x"), {"base": Backbone("pooled", "x", model.eval())})
    assert set(report.rows[0].figures) == {"top1", "top5"}
    assert "feature: mean of the patch tokens" in report.notes[1]


def test_the_token_cache_serves_the_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, model = folder(tmp_path / "x"), backbone()
    first = measure(root, {"base": model}, tmp_path / "cache", max_images=6)
    monkeypatch.setattr(Backbone, "tokens_and_cls", None)
    assert measure(root, {"base": model}, tmp_path / "cache", max_images=6) == first


def test_tall_and_wide_pictures_get_the_same_area(tmp_path: Path) -> None:
    sizes = []

    class Spy:
        name, identity = "spy", "spy"

        def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
            return target_width, round(target_width * height / width)

        def tokens_and_cls(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sizes.append(tuple(images.shape[2:]))
            return torch.ones(len(images), 2, 2, 3), torch.ones(len(images), 3)

    for number, size in enumerate([(64, 16), (16, 64), (32, 32)]):
        picture(tmp_path / f"{number}.png", 9, number, *size)
    paths = sorted(tmp_path.glob("*.png"))
    summarise("", Spy(), paths, ["a", "b", "c"], width=32, batch=1, device="cpu", cache_dir=None,
              on_event=ignore)  # fmt: skip
    assert sizes == [(16, 64), (64, 16), (32, 32)]


def test_a_folder_without_split_is_split_by_name(tmp_path: Path) -> None:
    data = read_image_folder(folder(tmp_path / "a", split=False), "a")
    assert (len(data.train), len(data.val)) == (24, 6)
    assert sorted(p.label for p in data.val) == [0, 1, 2, 3, 4, 5]
    assert not {p.name for p in data.train} & {p.name for p in data.val}
    again = read_image_folder(folder(tmp_path / "b", split=False), "a")
    assert [p.name for p in again.val] == [p.name for p in data.val]
    assert "chosen by name" in data.notes[0]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", split=False)
    (root / "c0").rename(root / "train")
    assert read_image_folder(root, "x").classes == ("c1", "c2", "c3", "c4", "c5", "train")


def test_limits_are_spread_over_the_classes(tmp_path: Path) -> None:
    report = measure(folder(tmp_path / "x"), {"base": backbone()}, max_images=6)
    assert report.count == 6
    assert "among 6 pictures of 6 classes" in report.notes[0]


def test_scored_pictures_that_are_known_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "x")
    copy = root / "val" / "c0" / "copy.png"
    copy.write_bytes((root / "train" / "c0" / "0.png").read_bytes())
    notes = measure(root, {"base": backbone()}).notes
    assert any("1 of the scored pictures are among the known" in note for note in notes)


def test_a_named_set_lies_in_the_workspace_and_data_wins(tmp_path: Path) -> None:
    root = folder(tmp_path / "datasets" / "colours")
    prepared = TASKS.get("cls").prepare(ask(root, "colours", models=("base",)))
    assert len(prepared.pictures) == 12
    (tmp_path / "other").mkdir()
    asked = ask(root, str(tmp_path / "other"), models=("base",), data=str(root))
    assert TASKS.get("cls").prepare(asked).pictures == prepared.pictures


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda root: (root / "val").rename(root / "holdout"), "not found, or not laid out"),
        (lambda root: (root / "train" / "c1").rename(root / "train" / "z"), "no training pictures"),
        (lambda root: (root / "val" / "empty").mkdir(), "no picture in this class"),
        (lambda root: (root / "train" / "c0" / "0.jpg").touch(), "two pictures have this name"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, spoil: object, what: str) -> None:
    root = folder(tmp_path / "x")
    spoil(root)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=what) as caught:
        TASKS.get("cls").prepare(ask(root, str(root), models=("base",)))
    assert caught.value.hint and str(root) in caught.value.where


def test_absent_folders_single_classes_and_fusion_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not laid out as"):
        TASKS.get("cls").prepare(ask(tmp_path / "none", "none", models=("base",)))
    with pytest.raises(DatasetError, match="a single class"):
        read_image_folder(folder(tmp_path / "one", classes=1), "one")
    with pytest.raises(DatasetError, match="cannot be split"):
        picture(tmp_path / "two" / "a" / "1.png", 1, 1)
        read_image_folder(tmp_path / "two", "two")
    with pytest.raises(SettingsError, match="no linear fusion"):
        TASKS.get("cls").prepare(ask(tmp_path, str(tmp_path), models=("base", "fused")))
