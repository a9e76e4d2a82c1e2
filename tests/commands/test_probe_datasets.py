"""``fit3d probe`` on every published dataset: a tiny tree of the true layout, end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import pytest

from fit3d_cli import app
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.datasets.base import DATASETS
from fit3d_cli.device import seeded
from fit3d_cli.tensorfile import write_tensors

SETS = [
    ("seg", "ade20k", 150), ("seg", "camvid", 11), ("seg", "nyuv2", 13), ("seg", "scannet", 40),
    ("seg", "scannetpp", 100), ("seg", "voc2012", 21),
    ("depth", "kitti", 0), ("depth", "nyuv2", 0), ("depth", "scannet", 0),
    ("depth", "scannetpp", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the built-in backbone."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with seeded(0):
        model = load_backbone("room-tiny", pretrained=False)
    write_tensors(path, model.model.state_dict(), {"format": "pt"})
    return path


def command(task: str, name: str, weights: Path, workspace: Path, *more: str) -> list[str]:
    return [
        "probe", task, name, "--models", "base", "--backbone", "room-tiny", "--device", "cpu",
        "--weights", str(weights), "--workspace", str(workspace), "--quiet",
        "--set", "probe.steps=2", "--set", "probe.backbone.width=64", "--set", "probe.bins=8",
        "--set", "probe.batch=2", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "classes"), SETS)
def test_probe_runs_on_the_published_layout(
    trees: ModuleType,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    name: str,
    classes: int,
) -> None:
    trees.TREES[task, name](tmp_path / "data")
    argv = command(task, name, weights, tmp_path / "ws", "--data", str(tmp_path / "data"))
    assert app.run([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["dataset"]) == (task, name)
    assert Path(report["path"]) == tmp_path / "ws" / "reports" / f"{task}-{name}.json"
    scored = 1 if name in ("voc2012", "kitti") or (task, name) == ("depth", "nyuv2") else 2
    assert report["count"] == scored
    figures = report["rows"][0]["figures"]
    wanted = "miou" if classes else "rmse"
    value = figures[wanted]["value"]
    assert math.isfinite(value) and figures[wanted]["n"] == scored
    # A head of two steps guesses; the scale shows that labels and units were understood.
    assert 0 <= value < 0.6 if classes else 0.1 < value < 60


@pytest.mark.parametrize(("task", "name", "classes"), SETS)
def test_absent_data_is_one_clear_line(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    name: str,
    classes: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = tmp_path / "ws"
    assert app.run(command(task, name, weights, workspace)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.strip().splitlines()
    spec = DATASETS.get(name)
    assert len(lines) == 1
    # How it is laid out may be cut short; --json tells all of it.
    assert lines[0].startswith(f"fit3d: error: ws/datasets/{name}: not found, or not laid out as")
    for part in (spec.layouts[task][:8], spec.source, spec.licence, "--data DIR"):
        assert part in lines[0]
    assert not list(workspace.rglob("*.json"))


def test_a_damaged_list_is_named_with_its_line(
    trees: ModuleType, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.TREES["depth", "kitti"](tmp_path / "data")
    path = tmp_path / "data" / "kitti_eigen_test.txt"
    path.write_text(path.read_text() + "gone.png gone_too.png 721.5\n")
    argv = command("depth", "kitti", weights, tmp_path / "ws", "--data", str(tmp_path / "data"))
    assert app.run(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"fit3d: error: {path}:3: the list names gone.png")


def test_nearest_neighbours_on_a_folder(
    trees: ModuleType, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("cup", "spoon"):
        for number in range(4):
            part = "train" if number < 3 else "val"
            trees.photo(tmp_path / "things" / part / label / f"{number}.jpg", 40, 32, number)
    argv = command("cls", str(tmp_path / "things"), weights, tmp_path / "ws")
    assert app.run([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["dataset"], report["count"]) == ("cls", "things", 2)
    assert "top1" in report["rows"][0]["figures"]
    assert app.run(command("cls", "absent", weights, tmp_path / "ws")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "{train,val}/CLASS" in line and "--data DIR" in line
