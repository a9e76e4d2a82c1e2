import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem
from fit3d_cli.datasets.base import DepthDataset, Sample, SegDataset
from fit3d_cli.errors import DatasetError, SettingsError, UnknownNameError
from fit3d_cli.images import save_png
from fit3d_cli.probing.features import Features, TokenStore
from fit3d_cli.probing.probe import probe
from fit3d_cli.probing.scores import group_pictures
from fit3d_cli.probing.sources import capture_depth, open_dataset
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings, ProbeSettings

SIZE = 64
PATCH = 8


@dataclass
class Colours:
    """Tokens are patch means of some colour channels: labels are linear in them, or not."""

    channels: tuple[int, ...]
    patch_size: int = PATCH
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def name(self) -> str:
        return "colours"

    @property
    def identity(self) -> str:
        return f"colours {self.channels} {self.patch_size}"

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        return target_width, target_width * height // width

    def tokens_and_cls(self, images: Tensor, *, norm: bool = True) -> tuple[Tensor, Tensor]:
        patches = torch.nn.functional.avg_pool2d(images[:, list(self.channels)], self.patch_size)
        tokens = patches.permute(0, 2, 3, 1)
        return tokens, tokens.mean((1, 2))


def blocks(seed: int) -> NDArray[np.int64]:
    """``[SIZE, SIZE]`` of 0..2 in squares of two patches."""
    cells = np.random.default_rng(seed).integers(0, 3, (4, 4))
    return np.kron(cells, np.ones((SIZE // 4, SIZE // 4), np.int64))


def write(
    root: Path, kind: str, label: Callable[[int, NDArray[np.int64]], NDArray[np.generic]]
) -> list[Sample]:
    """Pictures whose red is the class; green and blue say nothing."""
    samples = []
    for number in range(12):
        classes = blocks(number)
        rng = np.random.default_rng(100 + number)
        picture = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        picture[:, :, 0] = 60 + 60 * classes
        save_png(root / f"{number:02d}.png", picture)
        target = label(number, classes)
        save_png(root / f"{number:02d}.{kind}.png", target)  # type: ignore[arg-type]
        samples.append(Sample(f"{number:02d}", root / f"{number:02d}.png",
                              root / f"{number:02d}.{kind}.png"))  # fmt: skip
    return samples


def segmentation(root: Path, *, shuffled: bool = False) -> SegDataset:
    def label(number: int, classes: NDArray[np.int64]) -> NDArray[np.generic]:
        shown = blocks(500 + number) if shuffled else classes.copy()
        shown[0, :] = 255
        return shown.astype(np.uint8)

    samples = write(root, "seg", label)
    return SegDataset("toy", ("a", "b", "c"), tuple(samples[:8]), tuple(samples[8:]))


def depths(root: Path) -> DepthDataset:
    def label(number: int, classes: NDArray[np.int64]) -> NDArray[np.generic]:
        metres = 1.0 + classes
        metres[:3] = 0
        return (metres * 1000).astype(np.uint16)

    samples = write(root, "depth", label)
    return DepthDataset("toy", tuple(samples[:8]), tuple(samples[8:]), notes=("a note",))


MODELS = {"base": Colours((1, 2)), "tuned": Colours((0,))}


def settings(**changes: object) -> ProbeSettings:
    values = {
        "steps": 80,
        "lr": 0.05,
        "batch": 4,
        "bins": 32,
        "min_depth": 0.1,
        "max_depth": 5.0,
        **changes,
    }
    return ProbeSettings(backbone=BackboneSettings(width=SIZE), **values)  # type: ignore[arg-type]


def test_seg_rows_tell_who_knows_the_classes(tmp_path: Path) -> None:
    report = probe(segmentation(tmp_path), MODELS, settings())
    base, tuned, concat = report.rows
    assert [row.model for row in report.rows] == ["base", "tuned", "concat"]
    assert base.metrics["miou"] < 0.35
    assert tuned.metrics["miou"] > 0.75
    assert concat.metrics["miou"] > 0.75
    assert report.count == 4
    for row in report.rows:
        assert set(row.samples) == {"image_miou", "image_acc"}
        assert all(len(values) == 4 for values in row.samples.values())
        for name, values in row.samples.items():
            assert row.metrics[name] == pytest.approx(sum(values) / 4)


def test_figures_of_the_split_have_its_own_interval(tmp_path: Path) -> None:
    report = probe(segmentation(tmp_path), MODELS, settings(models=("base", "tuned"), steps=60))
    base, tuned = report.rows
    assert not base.differences and set(tuned.differences) == set(tuned.figures)
    for name in ("miou", "macc", "aacc"):
        assert name not in tuned.samples
        figure, gain = tuned.figures[name], tuned.differences[name]
        assert figure.n == gain.n == 4
        assert figure.low < figure.value < figure.high
        assert gain.value == pytest.approx(figure.value - base.figures[name].value)
        assert gain.low > 0  # four pictures are enough to see this one


@pytest.mark.parametrize("kind", ["seg", "depth"])
def test_sum_and_fused_know_what_either_model_knows(tmp_path: Path, kind: str) -> None:
    dataset = segmentation(tmp_path) if kind == "seg" else depths(tmp_path)
    models = {"base": Colours((1, 2)), "tuned": Colours((0, 1))}
    rows = ("base", "sum", "fused")
    report = probe(dataset, models, settings(models=rows, steps=100))
    base, added, fused = (row.metrics for row in report.rows)
    if kind == "seg":
        assert base["miou"] < 0.35 < 0.6 < min(added["miou"], fused["miou"])
    else:
        assert max(added["rmse"], fused["rmse"]) < 0.8 * base["rmse"]


def test_scenes_and_neighbouring_frames_are_resampled_as_wholes(tmp_path: Path) -> None:
    dataset = depths(tmp_path)

    def samples(names: list[str]) -> tuple[Sample, ...]:
        return tuple(Sample(name, tmp_path, tmp_path) for name in names)

    scenes = samples([f"{scene}/{frame}" for scene in range(8) for frame in range(2)])
    groups, notes = group_pictures(dataset, scenes)
    assert groups == [number // 2 for number in range(16)] and "8 scenes" in notes[0]
    groups, notes = group_pictures(dataset, scenes[:14])  # too few to tell
    assert groups is None and "7 scenes: too few to group" in notes[0]
    frames = samples([str(number) for number in range(42)])
    assert group_pictures(dataset, frames) == (None, ())
    dataset = replace(dataset, video=True)
    groups, notes = group_pictures(dataset, frames)
    assert groups is not None and groups[:6] == [0, 0, 0, 0, 0, 1] and "blocks of 5" in notes[0]
    groups, notes = group_pictures(dataset, frames[:15])
    assert groups is None and "frames of one video: too few to group" in notes[0]


def test_labels_unrelated_to_the_picture_cannot_be_learnt(tmp_path: Path) -> None:
    report = probe(segmentation(tmp_path, shuffled=True), MODELS,
                   settings(models=("tuned",)))  # fmt: skip
    assert report.rows[0].metrics["miou"] < 0.4


def test_depth_rows_tell_who_knows_the_depth(tmp_path: Path) -> None:
    report = probe(depths(tmp_path), MODELS, settings(steps=220))
    base, tuned, concat = (row.metrics for row in report.rows)
    assert tuned["rmse"] < 0.6 * base["rmse"]
    assert concat["rmse"] < 0.6 * base["rmse"]
    assert tuned["delta1"] > 0.8
    assert report.rows[0].samples["rmse"] != report.rows[1].samples["rmse"]
    assert "a note" in report.notes


def test_the_same_seed_gives_the_same_report_with_and_without_cache(tmp_path: Path) -> None:
    dataset = segmentation(tmp_path / "data")
    events: list[Progress] = []

    def run(seed: int, cache: bool) -> str:
        report = probe(dataset, MODELS, settings(steps=20), seed=seed,
                       cache_dir=tmp_path / "cache" if cache else None,
                       on_step=events.append)  # fmt: skip
        return json.dumps(report.to_dict())

    first = run(1, True)
    assert first == run(1, True) == run(1, False)
    assert first != run(2, True)
    assert Report.from_json(first, where="x").count == 4
    assert {e.stage for e in events} >= {"base: train tokens", "labels", "tuned: head",
                                         "concat: scoring"}  # fmt: skip
    assert all(0 < e.done <= e.total for e in events)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 * 12


def test_max_images_spreads_over_the_split(tmp_path: Path) -> None:
    report = probe(segmentation(tmp_path), MODELS,
                   settings(models=("tuned",), max_images=2, steps=5))  # fmt: skip
    assert report.count == 2
    assert report.rows[0].figures["miou"].n == 2


def test_pictures_without_labels_are_not_counted(tmp_path: Path) -> None:
    dataset = depths(tmp_path)
    empty = np.zeros((SIZE, SIZE), np.uint16)
    save_png(dataset.val[0].label_path, empty)
    save_png(dataset.train[0].label_path, empty)
    report = probe(dataset, MODELS, settings(models=("tuned",), steps=5))
    assert report.count == 3
    for sample in dataset.val:
        save_png(sample.label_path, empty)
    with pytest.raises(DatasetError, match="no scored picture"):
        probe(dataset, MODELS, settings(models=("tuned",), steps=5))
    for sample in dataset.train:
        save_png(sample.label_path, empty)
    with pytest.raises(DatasetError, match="no training picture"):
        probe(dataset, MODELS, settings(models=("tuned",), steps=5))


@pytest.mark.parametrize("preset", ["fast", "parity"])
def test_a_split_without_pictures_or_labels_is_refused_before_any_work(
    tmp_path: Path, preset: str
) -> None:
    dataset = segmentation(tmp_path)
    events: list[Progress] = []

    def refused(dataset: SegDataset, match: str) -> None:
        with pytest.raises(DatasetError, match=match):
            probe(dataset, MODELS, settings(preset=preset), on_step=events.append)

    refused(replace(dataset, train=()), "no training picture")
    refused(replace(dataset, val=()), "no scored picture")
    nothing = np.full((SIZE, SIZE), 255, np.uint8)
    for sample in dataset.train:
        save_png(sample.label_path, nothing)
    refused(dataset, "no training picture")
    assert not events


@pytest.mark.parametrize("kind", ["seg", "depth"])
def test_one_picture_with_one_labelled_pixel_is_enough(tmp_path: Path, kind: str) -> None:
    dataset = segmentation(tmp_path) if kind == "seg" else depths(tmp_path)
    dataset = replace(dataset, train=dataset.train[:1], val=dataset.val[:1])
    label = np.full((SIZE, SIZE), 255, np.uint8) if kind == "seg" else np.zeros((SIZE, SIZE), "u2")
    label[20, 30] = 1 if kind == "seg" else 2000
    save_png(dataset.train[0].label_path, label)
    report = probe(dataset, MODELS, settings(models=("tuned", "fused"), steps=5))
    assert report.count == 1
    for row in report.rows:
        assert all(math.isfinite(f.value) and not f.has_interval for f in row.figures.values())


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    dataset = segmentation(tmp_path)
    save_png(dataset.train[3].label_path, np.zeros((SIZE, SIZE // 2), np.uint8))
    with pytest.raises(DatasetError, match="labels of 32x64 for a photo of 64x64"):
        probe(dataset, MODELS, settings(steps=5))


def test_contradictions_are_refused(tmp_path: Path) -> None:
    dataset = segmentation(tmp_path)
    with pytest.raises(SettingsError, match="row 'tuned' needs the tuned model"):
        probe(dataset, {"base": MODELS["base"]}, settings())
    with pytest.raises(SettingsError, match="min_depth 5 is not below max_depth 5"):
        probe(depths(tmp_path), MODELS, settings(min_depth=5.0))
    with pytest.raises(SettingsError, match="no row"):
        probe(dataset, MODELS, settings(models=()))
    other = {"base": Colours((0,)), "tuned": Colours((0,), patch_size=16)}
    with pytest.raises(SettingsError, match="different token grids"):
        probe(dataset, other, settings(models=("concat",)))


def test_stores_beyond_the_memory_budget_read_from_the_cache(tmp_path: Path) -> None:
    dataset = segmentation(tmp_path / "data")

    def grey(number: int) -> Tensor:
        return torch.full((SIZE, SIZE, 3), number / 10)

    items = [TokenItem(s.name, (SIZE, SIZE), partial(grey, n)) for n, s in enumerate(dataset.train)]
    cache = TokenCache(tmp_path / "cache")
    model = Colours((0, 1))
    full = TokenStore(model, items, cache=cache, batch=4, device="cpu", memory=1 << 20)
    lean = TokenStore(model, items, cache=cache, batch=4, device="cpu", memory=0)
    aside = TokenStore(model, items, cache=None, batch=4, device="cpu", memory=0, folder=tmp_path)
    assert len(full._held) == 8 and not lean._held
    for index in range(8):
        assert torch.equal(lean[index].patches, full[index].patches)
        assert torch.equal(aside[index].patches, full[index].patches)
        assert torch.equal(aside[index].cls, full[index].cls)
    stores = {"base": full, "tuned": lean}
    both = Features("concat", stores, with_cls=True)
    assert both.grid(3).shape == (8, 8, 6)
    assert both.widths() == (4, 2)
    places = torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    torch.testing.assert_close(both.at(3, places), torch.full((2, 6), 0.3), atol=1e-3, rtol=0)
    added = Features("sum", stores)
    assert added.widths() == (2, 2)
    torch.testing.assert_close(added.at(3, places), torch.full((2, 2), 0.6), atol=2e-3, rtol=0)
    mean, variance = Features("base", stores).statistics()
    torch.testing.assert_close(mean, torch.full((2,), 0.35), atol=1e-3, rtol=0)
    torch.testing.assert_close(variance, torch.full((2,), 0.0525), atol=1e-3, rtol=0)


def rgbd(root: Path, count: int) -> Path:
    np.savetxt(root / "intrinsics.txt", [[50, 0, 16], [0, 50, 12], [0, 0, 1]])
    for number in range(count):
        stem = root / f"frame-{number:06d}"
        pose = np.eye(4)
        pose[0, 3] = 0.05 * number
        np.savetxt(stem.with_suffix(".pose.txt"), pose)
        save_png(stem.with_suffix(".color.png"), np.full((24, 32, 3), 90, np.uint8))
        save_png(stem.with_suffix(".depth.png"), np.full((24, 32), 1500, np.uint16))
    return root


def test_any_rgbd_capture_is_a_depth_dataset_with_a_gap(tmp_path: Path) -> None:
    dataset = open_dataset("depth", str(rgbd(tmp_path, 20)), tmp_path)
    assert isinstance(dataset, DepthDataset)
    assert dataset.metric
    train, val = ([int(s.name[6:12]) for s in split] for split in (dataset.train, dataset.val))
    assert train == list(range(14))
    assert val == [16, 17, 18, 19]
    assert torch.equal(dataset.depth(dataset.val[0]), torch.full((24, 32), 1.5))


def test_captures_that_cannot_be_probed_are_refused(tmp_path: Path) -> None:
    from fit3d_cli.capture.read import read_capture

    capture = read_capture(rgbd(tmp_path, 9))
    with pytest.raises(DatasetError, match="9 views have depth, the probe needs 10"):
        capture_depth(capture)
    with pytest.raises(UnknownNameError, match="no labels for seg"):
        open_dataset("seg", str(tmp_path), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown dataset"):
        open_dataset("seg", "nowhere", tmp_path)
