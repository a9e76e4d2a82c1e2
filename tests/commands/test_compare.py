"""``fit3d compare``: options to the stage, result to tables or JSON."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import app
from fit3d_cli.comparing.pictures import Drift


class Stage:
    """Stands in for the stage and remembers its call."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *args: Any, on_event: Any, **options: Any) -> Any:
        self.args, self.options = args, options
        row = {
            "task": "seg", "dataset": "camvid", "model": "tuned", "metric": "mIoU", "arrow": "↑",
            "value": 0.5, "value_low": 0.45, "value_high": 0.55, "difference": 0.03, "low": 0.01,
            "high": 0.05, "count": 101, "over": "images", "best": True, "verdict": "better",
        }  # fmt: skip
        pictures = (
            types.SimpleNamespace(name="a.png", drift=Drift(0.98, 1.01)),
            types.SimpleNamespace(name="b.png", drift=None),
        )
        return types.SimpleNamespace(
            page=Path("out/compare/index.html"), files=(Path("a.png"), Path("b.png")),
            pictures=pictures, base="vit", tuned="t", summary=(row,), remarks=("a remark",),
        )  # fmt: skip


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr("fit3d_cli.comparing.compare.compare", stage)
    return stage


def test_everything_is_passed_on(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", str(tmp_path), "--images", "3", "--backbone", "mae-base", "--weights", "w",
            "--tuned", str(tmp_path), "--captures", str(tmp_path), "--workspace", "w s",
            "--seed", "5", "--set", "compare.clusters=4"]  # fmt: skip
    assert app.run([*argv, "--device", "cpu"]) == 0
    subjects, settings = stage.args
    assert subjects == [str(tmp_path)]
    assert (settings.images, settings.clusters, settings.tuned) == (3, 4, str(tmp_path))
    assert (settings.backbone.name, settings.backbone.weights) == ("mae-base", "w")
    assert stage.options["captures"] == tmp_path
    assert (stage.options["seed"], stage.options["device"]) == (5, "cpu")
    assert stage.options["workspace"] == Path("w s")
    assert "--set compare.clusters=4" in stage.options["command"]
    assert stage.options["command"].endswith("--seed 5")
    assert stage.options["differences"]["compare.images"] == 3
    out = capsys.readouterr().out
    assert "tuned (best)" in out and "+0.01 to +0.05" in out and "mIoU ↑" in out
    assert "0.45 to 0.55" in out and "101 images" in out
    assert "note: a remark" in out and "page: out/compare/index.html" in out


def test_json_is_one_object(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["compare", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == told["report"] == "out/compare/index.html"
    assert told["pictures"][0] == {
        "name": "a.png", "path": "a.png", "cosine": 0.98, "norm_ratio": 1.01,
    }  # fmt: skip
    assert told["pictures"][1]["cosine"] is None and told["summary"][0]["verdict"] == "better"
    assert stage.args[0] == []


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["a", "b", "c"], "fit3d compare"),
        (["a", "b", "--tuned", "."], "--tuned ."),
        (["no.png"], "no.png"),
        (["no.f3d"], "no.f3d"),
        (["--tuned", "no-dir"], "no-dir"),
        (["--captures", "no-dir"], "no-dir"),
        (["--set", "compare.image=3"], "--set compare.image"),
        (["--images", "0"], "--images"),
    ],
)
def test_bad_input_is_one_line(
    stage: Stage, capsys: pytest.CaptureFixture[str], argv: list[str], where: str
) -> None:
    assert app.run(["compare", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fit3d: error: {where}: ") and error.count("\n") == 1
    assert " - " in error and not stage.options


def test_dry_run_shows_settings(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["compare", "--dry-run", "--images", "2"]) == 0
    assert "compare.images" in capsys.readouterr().out and not stage.options
