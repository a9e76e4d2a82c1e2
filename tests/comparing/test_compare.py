from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fit3d_cli.capture.photos import Photos, photos_of_path
from fit3d_cli.comparing.compare import compare
from fit3d_cli.comparing.inputs import (
    load_reports,
    photos_of_scene,
    photos_of_workspace,
    scene_rows,
)
from fit3d_cli.comparing.models import load_base, load_pair, load_two
from fit3d_cli.errors import ArchiveError, CaptureError, ImageError, SettingsError, UnknownNameError
from fit3d_cli.settings import BackboneSettings, CompareSettings
from fit3d_cli.workspace import Workspace

SMALL = BackboneSettings(width=48)


def test_workspace_against_itself(full_workspace: Path) -> None:
    settings = CompareSettings(backbone=SMALL, clusters=3)
    result = compare([], settings, workspace=full_workspace, device="cpu")
    assert (result.base, result.tuned) == ("base", "tuned")
    assert [p.name for p in result.pictures] == ["room/images/01.png", "room/images/04.png"]
    assert result.page == full_workspace / "compare" / "index.html"
    names = sorted(path.name for path in result.page.parent.iterdir())
    assert names == ["index.html", "room-images-01.png", "room-images-04.png"]
    assert [row["verdict"] for row in result.summary] == ["reference", "better"]
    drift = result.pictures[0].drift
    assert drift is not None and drift.norm_ratio == pytest.approx(1.05, abs=1e-3)
    text = result.page.read_text("utf-8")
    assert "fit3d probe depth office --set probe.data=…/data --set probe.steps=7" in text
    assert str(full_workspace.parent) not in text
    before = result.page.read_bytes()
    compare([], settings, workspace=full_workspace, device="cpu")
    assert result.page.read_bytes() == before


def test_two_models_and_one_picture(full_workspace: Path, photos: list[Path]) -> None:
    settings = CompareSettings(backbone=SMALL, images=1, clusters=2)
    turned = compare(["tuned", "base"], settings, workspace=full_workspace, device="cpu")
    assert (turned.base, turned.tuned) == ("tuned", "base")
    assert turned.summary == () and any("other models" in remark for remark in turned.remarks)
    one = compare([str(photos[0])], settings, workspace=full_workspace, device="cpu")
    assert [p.name for p in one.pictures] == ["a.png"] and one.summary
    folder = compare([str(photos[0].parent)], settings, workspace=full_workspace, device="cpu")
    assert len(folder.pictures) == 1


def test_nothing_is_written_for_bad_input(full_workspace: Path, tmp_path: Path) -> None:
    settings = CompareSettings(backbone=SMALL)
    for subjects, error in (
        (["base", "nosuchmodel"], UnknownNameError),
        ([str(tmp_path / "no.png")], ImageError),
        ([str(tmp_path / "no.f3d")], ArchiveError),
    ):
        with pytest.raises(error):
            compare(subjects, settings, workspace=full_workspace, device="cpu")
    with pytest.raises(SettingsError):
        compare([], settings, workspace=tmp_path / "empty", device="cpu")
    assert not (full_workspace / "compare").exists() and not (tmp_path / "empty").exists()


def test_the_base_comes_from_the_tuned_models_record(full_workspace: Path) -> None:
    home = Workspace(full_workspace)
    pair = load_pair(home, BackboneSettings())
    assert pair.base.name == "base" and pair.own and not pair.remarks
    chosen = load_pair(home, BackboneSettings(name="tuned"), tuned="base")
    assert chosen.base.name == "tuned" and not chosen.own
    record = home.models_dir / "tuned" / "fit3d.json"
    told = json.loads(record.read_text("utf-8"))
    for digest, count in ((pair.base.weights_sha256, 0), ("0" * 64, 1)):
        base = {"name": "base", "weights_sha256": digest}
        record.write_text(json.dumps({**told, "backbone": "?", "base": base}), "utf-8")
        assert len(load_pair(home, BackboneSettings()).remarks) == count


def test_the_base_without_a_name_is_the_scenes_with_its_weights(full_workspace: Path) -> None:
    home = Workspace(full_workspace)
    assert load_base(home, BackboneSettings(), {}, device="cpu").name == "base"
    other = home.models_dir / "tuned" / "model.safetensors"
    home.remember_backbone("0" * 64, str(other))
    lifted = load_base(home, BackboneSettings(), {}, device="cpu")
    assert lifted.source == str(other.resolve())


def test_reports_about_other_models_are_left_out(full_workspace: Path) -> None:
    home = Workspace(full_workspace)
    own = load_pair(home, BackboneSettings())
    turned = load_two("tuned", "base", home)
    path = home.reports_dir / "depth-office.json"
    told = json.loads(path.read_text("utf-8"))
    digests = [model.weights_sha256[:12] for model in (own.base, own.tuned)]
    for notes, kept in (
        ([], (1, 0)),
        ([f"base: b, weights sha256 {digests[0]}", f"tuned: t, weights sha256 {digests[1]}"],
         (1, 1)),
        ([f"base: b, weights sha256 {digests[0]}", "tuned: t, weights sha256 0123456789ab"],
         (0, 0)),
    ):  # fmt: skip
        path.write_text(json.dumps({**told, "notes": notes}), "utf-8")
        found = [load_reports(home.reports_dir, pair) for pair in (own, turned)]
        assert tuple(len(reports) for reports, _ in found) == kept
        assert all(len(reports) + len(remarks) == 1 for reports, remarks in found)


def test_the_cautions_of_a_report_are_repeated(full_workspace: Path) -> None:
    path = full_workspace / "reports" / "depth-office.json"
    told = json.loads(path.read_text("utf-8"))
    told |= {"notes": ["A note.", "caution: tuned was trained on scene office"], "seed": 3}
    path.write_text(json.dumps(told), "utf-8")
    pair = load_pair(Workspace(full_workspace), BackboneSettings())
    (report,), remarks = load_reports(path.parent, pair)
    assert not remarks and report.cautions == ("tuned was trained on scene office",)
    result = compare(
        [], CompareSettings(backbone=SMALL, images=1), workspace=full_workspace, device="cpu"
    )
    assert result.remarks[0] == "Depth on office: tuned was trained on scene office."
    text = result.page.read_text("utf-8")
    assert "caution" in text and re.search("fit3d probe depth office .* --seed 3", text)


def test_reports_that_cannot_be_read_are_named(full_workspace: Path) -> None:
    folder = full_workspace / "reports"
    (folder / "a-bad.json").write_text("{", "utf-8")
    (folder / "b-new.json").write_text('{"schema": 99}', "utf-8")
    pair = load_pair(Workspace(full_workspace), BackboneSettings())
    reports, remarks = load_reports(folder, pair)
    assert len(reports) == 1 and len(remarks) == 2
    assert remarks[0].startswith("Left out a-bad.json") and "schema 99" in remarks[1]
    assert load_reports(folder / "none", pair) == ((), ())


def test_scene_rows(full_workspace: Path) -> None:
    bad = full_workspace / "scenes" / "bad.f3d"
    bad.write_bytes(b"nothing")
    rows, settings, remarks = scene_rows(Workspace(full_workspace).scene_paths())
    assert settings == {"room": {"dim": 4}} or settings == {}
    assert len(rows) == 1 and remarks[0].startswith("Left out bad.f3d")
    assert rows[0]["gaussians"] == 40 and rows[0]["psnr_heldout"] == 21.5


def test_photos_of_captures_folders_and_scenes(
    full_workspace: Path, photos: list[Path], tmp_path: Path
) -> None:
    home = Workspace(full_workspace)
    assert photos_of_path(photos[0].parent).paths == tuple(sorted(photos))
    assert len(photos_of_path(tmp_path / "room").paths) == 6
    scene = home.scene_path("room")
    assert photos_of_scene(scene, home).names == ("room/images/01.png", "room/images/04.png")
    assert photos_of_workspace(home, 1)[0].names == ("room/images/04.png",)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ImageError, match="no picture in this folder"):
        photos_of_path(tmp_path / "hollow")
    (tmp_path / "room").rename(tmp_path / "moved")
    with pytest.raises(CaptureError):
        photos_of_scene(scene, home)
    with pytest.raises(SettingsError, match="is gone"):
        photos_of_workspace(home, 3)
    assert len(photos_of_scene(scene, home, tmp_path / "moved").paths) == 2


def test_photos_are_spread_evenly() -> None:
    many = Photos(tuple(map(Path, "abcdefghij")), tuple("abcdefghij"))
    assert many.spread(2).names == ("c", "h") and many.spread(99) == many
