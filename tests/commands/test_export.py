"""``fit3d export`` of tuned models; scenes are in test_app and the fault tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli import app
from fit3d_cli.backbones.export import read_provenance, write_model_directory
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.parts import Part, make_trainable, merge
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.device import seeded
from fit3d_cli.tensorfile import read_tensors
from fit3d_cli.workspace import Workspace

ARGUMENTS = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8, "img_size": 32}
IMAGE = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
Made = Callable[..., Path]


def tiny(seed: int = 0) -> Backbone:
    with seeded(seed):
        model = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True,
            **ARGUMENTS,
        )  # fmt: skip
    return Backbone("tiny", "vit_tiny_patch16_224", model, model_args=ARGUMENTS).eval()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; ``base/`` is remembered by the workspace ``w``."""
    monkeypatch.chdir(tmp_path)
    write_model_directory(tmp_path / "base", tiny(), card="", extra={})
    Workspace(tmp_path / "w").remember_backbone(tiny().weights_sha256, str(tmp_path / "base"))
    return tmp_path


def tune(home: Path, part: Part = "full", name: str = "tuned", **extra: Any) -> Path:
    backbone = tiny()
    drawn = torch.Generator().manual_seed(0)
    parameters = make_trainable(backbone, part=part, generator=drawn)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=drawn)
    merge(backbone)
    facts = {"base": {"name": "tiny", "weights_sha256": tiny().weights_sha256}, "seed": 3,
             "plan": "p", "figures": {"steps": 1}, **extra}  # fmt: skip
    directory = home / "w" / "models" / name
    write_model_directory(directory, backbone, card="# tuned", extra=facts)
    return directory


def run(*argv: object) -> int:
    return app.run(["export", *map(str, argv), "--workspace", "w"])


def tokens(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_backbone(str(directory)).tokens(IMAGE)


def test_a_model_becomes_one_file_that_timm_loads(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tune(home)
    assert run("tuned", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert Path(facts["path"]).resolve() == home / "w" / "models" / "tuned.safetensors"
    state, metadata = read_tensors(home / "w" / "models" / "tuned.safetensors")
    assert metadata == {"format": "pt"} and facts["tensors"] == len(state)
    model = import_timm().create_model("vit_tiny_patch16_224", num_classes=0, **ARGUMENTS)
    model.load_state_dict(state, strict=True)
    assert facts["weights_sha256"] == load_backbone(str(directory)).weights_sha256
    assert run(directory) == 2  # it exists
    before = (home / "w" / "models" / "tuned.safetensors").stat().st_mtime_ns
    assert run(directory, "--force", "--out", "other.safetensors") == 0
    assert (home / "other.safetensors").read_bytes() == (
        home / "w" / "models" / "tuned.safetensors"
    ).read_bytes()
    assert (home / "w" / "models" / "tuned.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("part", ["full", "lora", "adapter"])
def test_interpolation_writes_a_model_between(
    home: Path, part: Part, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tune(home, part)
    for alpha in ("0", "0.5", "1"):
        assert run("tuned", "--interpolate", alpha, "--json") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["alpha"] for line in shown] == [0, 0.5, 1]
    models = home / "w" / "models"
    ends = tokens(home / "base"), tokens(directory)
    assert torch.equal(tokens(models / "tuned-0"), ends[0])
    assert torch.equal(tokens(models / "tuned-1"), ends[1])
    state = load_backbone(str(models / "tuned-0.5")).model.state_dict()
    start, end = (load_backbone(str(d)).model.state_dict() for d in (home / "base", directory))
    for key, value in state.items():
        torch.testing.assert_close(value, (start[key] + end[key]) / 2)
    provenance = read_provenance(models / "tuned-0.5")
    digest = load_backbone(str(directory)).weights_sha256
    assert provenance["interpolated"] == {"alpha": 0.5, "tuned_sha256": digest}
    assert provenance["seed"] == 3 and provenance["base"]["name"] == "tiny"
    # Else finetune would take it for the finished model of that plan.
    assert "plan" not in provenance and "figures" not in provenance
    card = (models / "tuned-0.5" / "README.md").read_text()
    assert "base + 0.5 (tuned - base)" in card
    assert ("adapter.safetensors" in card) == (part == "adapter")


def test_interpolated_models_are_interpolated_again(home: Path) -> None:
    tune(home)
    assert run("tuned", "--interpolate", "0.5", "--out", "half") == 0
    assert run("half", "--interpolate", "0", "--out", "none") == 0
    assert torch.equal(tokens(home / "none"), tokens(home / "base"))
    assert run("half", "--interpolate", "0.5", "--out", "none") == 2
    assert run("half", "--interpolate", "0.5", "--out", "none", "--force") == 0
    assert not torch.equal(tokens(home / "none"), tokens(home / "base"))


def test_the_base_may_be_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(home)
    argv = ["tuned", "--interpolate", "0.5"]
    (home / "w" / "backbones.json").unlink()
    assert run(*argv) == 2
    assert "unknown backbone 'tiny'" in capsys.readouterr().err
    assert run(*argv, "--backbone", "base") == 0
    write_model_directory(home / "stranger", tiny(1), card="", extra={})
    assert run(*argv, "--backbone", "stranger", "--out", "new") == 2
    assert "not the weights that tuned was tuned from" in capsys.readouterr().err
    assert not (home / "new").exists()


def spoil(home: Path, how: str) -> None:
    directory = home / "w" / "models" / "tuned"
    if how == "base gone":
        for file in (home / "base").iterdir():
            file.unlink()
        (home / "base").rmdir()
    elif how == "foreign weights":
        write_model_directory(home / "other", tiny(1), card="", extra={})
        (directory / "model.safetensors").write_bytes(
            (home / "other" / "model.safetensors").read_bytes()
        )
    elif how == "no base":
        facts = read_provenance(directory)
        del facts["base"]
        (directory / "fit3d.json").write_text(json.dumps(facts))
    elif how == "unfinished":
        (directory / "config.json").unlink()


@pytest.mark.parametrize(
    ("how", "argv", "says"),
    [
        ("base gone", ["--interpolate", "0.5"], "--backbone and --weights"),
        ("no base", ["--interpolate", "0.5"], "does not say what it was tuned from"),
        ("foreign weights", ["--interpolate", "0.5"], "not the ones that fit3d.json describes"),
        ("foreign weights", [], "not the ones that fit3d.json describes"),
        ("unfinished", [], "not a finished model"),
        ("", ["--interpolate", "1.5"], "--interpolate"),
        ("", ["--interpolate", "0.5", "--colour", "pca"], "--colour: means nothing"),
        ("", ["--interpolate", "0.5", "--out", "base/config.json"], "add --force"),
        ("", ["--interpolate", "0.5", "--force", "--out", "captures"], "is no model directory"),
        ("", ["--interpolate", "0.5", "--force", "--out", "w/models/tuned"], "what is exported"),
        ("", ["--to", "ply"], "a model cannot become ply"),
        ("", ["--weights", "x"], "--weights: means nothing"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    home: Path, how: str, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(home)
    (home / "captures").mkdir()
    (home / "captures" / "photo.txt").touch()
    spoil(home, how)
    before = sorted(path for path in home.rglob("*"))
    assert run("w/models/tuned", *argv) == 2
    captured = capsys.readouterr()
    assert says in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert sorted(path for path in home.rglob("*")) == before


def test_adapters_have_no_place_in_a_plain_file(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(home, "adapter")
    assert run("tuned") == 2
    assert "conv adapter has no place among timm's weights" in capsys.readouterr().err
    assert not list(home.rglob("tuned.safetensors"))


def test_scenes_take_no_options_of_models(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "room.f3d").touch()
    for argv, says in (
        (["--interpolate", "0.5"], "--interpolate: a scene has no weights"),
        (["--weights", "x"], "--weights: means nothing for a scene"),
        (["--to", "onnx"], "a scene cannot become onnx"),
    ):
        assert run("room.f3d", *argv) == 2
        assert says in capsys.readouterr().err


def test_dry_run_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(home)
    assert run("tuned", "--interpolate", "0.5", "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["inputs"]["interpolate"] == 0.5
    assert shown["inputs"]["out"].endswith("tuned-0.5")
    assert not (home / "w" / "models" / "tuned-0.5").exists()
