"""``fit3d viz``: pictures and videos go to one stage, scenes to the other."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fit3d_cli import app
from fit3d_cli.capture.photos import Photos
from fit3d_cli.images import save_png
from fit3d_cli.showing.pictures import Shown


class Stage:
    """Stands in for a stage and remembers its call."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.args, self.options = args, options
        return self.result


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(Shown((Path("v/a.png"),), Path("v/contact-sheet.png"), None, None, 1))
    monkeypatch.setattr("fit3d_cli.showing.subject.show_subject", stage)
    model = SimpleNamespace(name="m")
    monkeypatch.setattr("fit3d_cli.comparing.models.load_base", Stage(model))
    pair = SimpleNamespace(base=model, tuned=model, remarks=("other weights",))
    monkeypatch.setattr("fit3d_cli.comparing.models.load_pair", Stage(pair))
    return stage


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr("fit3d_cli.commands._view.view_scene", stage)
    return stage


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    import numpy as np

    save_png(tmp_path / "photo.png", np.zeros((8, 8, 3), np.uint8))
    return tmp_path / "photo.png"


def test_pictures(pictures: Stage, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["viz", str(photo), "--method", "kmeans", "--clusters", "4", "--foreground"]
    argv += ["--upscale", "photo", "--workspace", "w", "--device", "cpu", "--seed", "2", "--html"]
    assert app.run(argv) == 0
    subject, viewer, settings = pictures.args
    assert subject == Photos((photo,), ("photo.png",))
    assert viewer.labels == ("m",)
    assert (settings.method, settings.clusters, settings.upscale) == ("kmeans", 4, "photo")
    assert settings.foreground
    on_event = pictures.options.pop("on_event")
    assert callable(on_event)
    assert pictures.options == {"out": Path("w/viz/photo"), "page": True, "seed": 2}
    shown = capsys.readouterr()
    assert "v/a.png" in shown.out and "v/contact-sheet.png" in shown.out
    assert "next: fit3d compare" in shown.err


def test_a_point_means_similarity(pictures: Stage, photo: Path) -> None:
    assert app.run(["viz", str(photo), "--point", "3,4"]) == 0
    assert pictures.args[2].method == "similarity" and pictures.args[2].point == "3,4"


def test_two_models_and_json(
    pictures: Stage, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["viz", str(photo), "--tuned", str(photo.parent), "--json"]) == 0
    assert pictures.args[1].labels == ("base", "tuned")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "subject": str(photo), "files": ["v/a.png"], "sheet": "v/contact-sheet.png",
        "page": None, "video": None, "fitted_on": 1, "remarks": ["other weights"],
    }  # fmt: skip


def test_scene(scene: Stage, pictures: Stage, tmp_path: Path) -> None:
    archive = tmp_path / "room.f3d"
    archive.touch()
    argv = ["viz", str(archive), "--captures", str(tmp_path), "--export", "o.html"]
    assert app.run([*argv, "--find", "1,2,3"]) == 0
    run, _, subject = scene.args
    assert (run.verb, subject) == ("viz", archive) and not pictures.options
    assert scene.options["captures"] == tmp_path and scene.options["export"] == Path("o.html")
    assert scene.options["find"] == ["1,2,3"] and scene.options["sheet"] is False


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["no.png"], "no.png"),
        (["no.f3d"], "no.f3d"),
        ([".", "--tuned", "no-dir"], "no-dir"),
        ([".", "--captures", "."], "--captures"),
        ([".", "--sheet"], "--sheet"),
        ([".", "--text", "a chair"], "--text"),
        (["room.f3d", "--backbone", "x"], "--backbone"),
        (["room.f3d", "--html"], "--html"),
        ([".", "--method", "tsne"], "--method"),
        ([".", "--method", "similarity"], "--method similarity"),
        ([".", "--method", "pca", "--point", "1,1"], "--point"),
        ([".", "--clusters", "1"], "--clusters"),
        ([], "IMAGE|DIR|VIDEO|SCENE.f3d"),
    ],
)
def test_bad_input_is_one_line(
    pictures: Stage, scene: Stage, capsys: pytest.CaptureFixture[str], argv: list[str], where: str
) -> None:
    assert app.run(["viz", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fit3d: error: {where}: ") and error.count("\n") == 1
    assert not pictures.options and not scene.options
