"""``fit3d export`` of models and checkpoints, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fit3d_cli import app
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.handoff.card import NOT_MEASURED, with_measured
from fit3d_cli.report import Report
from fit3d_cli.statistics import Measured, make_rows
from fit3d_cli.storage import write_json
from fit3d_cli.tensorfile import read_tensors, write_tensors

DINOV2 = "vit_small_patch14_dinov2.lvd142m"
Family = Callable[..., Backbone]
Stored = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: object) -> int:
    return app.run(["export", *map(str, argv), "--workspace", "w"])


def test_a_checkpoint_becomes_a_model_directory(
    home: Path, family: Family, stored: Stored, shown: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = stored(family(DINOV2), "arch")
    tuned = family(DINOV2, seed=2)
    write_tensors(home / "theirs.safetensors", tuned.model.state_dict(), {})
    assert run("theirs.safetensors", "--backbone", arch, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == "theirs" and facts["tensors"] == len(tuned.model.state_dict())
    images, _ = shown(tuned)
    assert torch.equal(load_backbone(str(home / "theirs")).tokens(images), tuned.tokens(images))
    record = read_provenance(home / "theirs")
    assert record["converted"]["layout"] == "timm" and record["base"] == {"name": "arch"}
    assert str(home) not in json.dumps(record)
    card = (home / "theirs" / "README.md").read_text()
    assert "Converted by fit3d from `theirs.safetensors`" in card and NOT_MEASURED in card
    assert (home / "theirs" / "hubconf.py").is_file()
    # The directory goes on to the other forms, and so does the checkpoint itself.
    assert run("theirs", "--to", "safetensors", "--out", "again.safetensors") == 0
    assert run("theirs.safetensors", "--to", "transformers", "--backbone", arch) == 0
    first, second = (
        read_tensors(home / name)[0] for name in ("again.safetensors", "theirs.safetensors")
    )
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert (home / "theirs-transformers" / "config.json").is_file()


def test_a_stock_backbone_needs_no_training(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("room-tiny", "--to", "timm", "--out", "room", "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"] == "backbone, concat"
    assert load_backbone("room").weights_sha256 == load_backbone("room-tiny").weights_sha256
    assert run("room-tiny", "--to", "timm", "--out", "room", "--force") == 0


def test_hub_puts_what_was_measured_into_the_card(
    home: Path, family: Family, stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = family(DINOV2)
    directory = stored(backbone)
    (directory / "hubconf.py").unlink()
    rows = make_rows({"tuned": Measured(samples={"miou": [0.5, 0.75]})})
    for name, digest in (("seg-a", backbone.weights_sha256), ("seg-b", "f" * 64)):
        notes = (f"tuned: x, weights sha256 {digest[:12]}", "caution: <b>few|images")
        report = Report("seg", name, rows, 2, notes=notes)
        write_json(home / "w" / "reports" / f"{name}.json", report.to_dict())
    for _ in range(2):
        assert run(directory, "--to", "hub", "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["reports"] == 1 and "dinov2_small_fine" in facts["entries"]
        card = (directory / "README.md").read_text()
        assert card.count("## Measured") == 1
        assert "| seg | seg-a | tuned | miou | 0.6250 [0.5000, 0.7500] | 2 |" in card
        assert "&lt;b>few/images" in card and "seg-b" not in card
    assert (directory / "hubconf.py").is_file()
    assert "Nothing yet" in with_measured(card, [])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["model", "--to", "onnx", "--width", "50"], "--width: 50 is no multiple"),
        (["model", "--width", "56"], "--width: means nothing"),
        (["model", "--backbone", "x"], "--backbone: means nothing"),
        (["model", "--to", "transformers", "--out", "other", "--force"], "is no model directory"),
        (["model", "--to", "transformers", "--out", "file", "--force"], "is a file"),
        (["model", "--to", "ply"], "cannot become ply"),
        (["model", "--interpolate", "0.5", "--to", "onnx"], "--to: means nothing"),
        (["w.safetensors", "--interpolate", "0.5"], "--interpolate: only a tuned model"),
        (["w.safetensors", "--to", "hub"], "matches 0 of"),
    ],
)
def test_refusals_leave_nothing(
    home: Path, family: Family, stored: Stored, capsys: pytest.CaptureFixture[str],
    argv: list[str], says: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stored(family(DINOV2))
    (home / "other").mkdir()
    (home / "other" / "mine.txt").write_text("mine")
    (home / "file").touch()
    write_tensors(home / "w.safetensors", {"x": torch.zeros(2)}, {})
    if "hub" in argv:
        from fit3d_cli.handoff import checkpoints

        monkeypatch.setattr(checkpoints, "shapes_of", lambda name: {"cls_token": (1, 1, 384)})
    before = sorted(home.rglob("*"))
    assert run(*argv) == 2
    assert says in capsys.readouterr().err
    assert sorted(home.rglob("*")) == before
