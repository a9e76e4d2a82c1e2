"""``fit3d viz``: photos go to the picture stage, scenes to the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import app


class Stage:
    """Stands in for a stage and remembers its call."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *args: Any, on_event: Any, **options: Any) -> Any:
        self.args, self.options = args, options
        return self.result


@pytest.fixture
def photos(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage([Path("v/a.png"), Path("v/b.png")])
    monkeypatch.setattr("fit3d_cli.comparing.look.viz_subject", stage)
    return stage


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(Path("v/room.png"))
    monkeypatch.setattr("fit3d_cli.comparing.scenes.viz_scene", stage)
    return stage


def test_photos(photos: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "viz",
        str(tmp_path),
        "--method",
        "kmeans",
        "--clusters",
        "4",
        "--backbone",
        "clip-base",
    ]
    argv += ["--tuned", str(tmp_path), "--workspace", "w", "--device", "cpu", "--seed", "2"]
    assert app.run([*argv, "--weights", "x.st"]) == 0
    subject, settings = photos.args
    assert subject == tmp_path
    assert (settings.method, settings.clusters, settings.tuned) == ("kmeans", 4, str(tmp_path))
    assert (settings.backbone.name, settings.backbone.weights) == ("clip-base", "x.st")
    assert photos.options == {
        "workspace": Path("w"), "out": Path("w/viz") / tmp_path.name, "device": "cpu", "seed": 2,
    }  # fmt: skip
    assert "v/a.png" in capsys.readouterr().out


def test_scene(
    scene: Stage, photos: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "room.f3d"
    archive.touch()
    argv = ["viz", str(archive), "--captures", str(tmp_path), "--out", "o.png", "--json"]
    assert app.run([*argv, "--set", "viz.clusters=3"]) == 0
    assert scene.args == (archive, Path("o.png")) and not photos.options
    assert scene.options["captures"] == tmp_path and scene.options["clusters"] == 3
    assert json.loads(capsys.readouterr().out) == {
        "subject": str(archive), "files": ["v/room.png"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["no.png"], "no.png"),
        (["no.f3d"], "no.f3d"),
        ([".", "--tuned", "no-dir"], "no-dir"),
        ([".", "--captures", "."], "--captures"),
        (["room.f3d", "--backbone", "x"], "--backbone"),
        ([".", "--method", "tsne"], "--method"),
        ([".", "--clusters", "1"], "--clusters"),
        ([], "IMAGE|DIR|SCENE.f3d"),
    ],
)
def test_bad_input_is_one_line(
    photos: Stage, scene: Stage, capsys: pytest.CaptureFixture[str], argv: list[str], where: str
) -> None:
    assert app.run(["viz", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fit3d: error: {where}: ") and error.count("\n") == 1
    assert not photos.options and not scene.options
