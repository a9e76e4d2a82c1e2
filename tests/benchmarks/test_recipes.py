"""The runner of recipes: what it is asked for, and its table. No model is tuned here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recipes
from benchmarks.recipes import STAGES, Recipe, table


def _figure(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "n": 9, "low": low, "high": high}


def _result() -> dict[str, Any]:
    rows = [
        {"figures": {"miou": _figure(0.5)}, "differences": {}},
        {"figures": {"miou": _figure(0.6)}, "differences": {"miou": _figure(0.1, 0.05, 0.15)}},
        {"figures": {"miou": _figure(0.51)}, "differences": {"miou": _figure(0.01, -0.1, 0.1)}},
    ]
    return {"rows": [{"recipe": "mine", "seconds": 1.0, "reports": {"seg": {"rows": rows}}}]}


def test_a_recipe_is_a_profile_and_settings() -> None:
    assert Recipe.parse("single") == Recipe("single", "single", ())
    assert Recipe.parse("a=single:finetune.lr=1e-4,finetune.epochs=1") == Recipe(
        "a", "single", ("finetune.lr=1e-4", "finetune.epochs=1")
    )


def test_no_stage_scores_what_it_tunes_on() -> None:
    for stage in STAGES.values():
        assert stage.scored not in stage.tuned_on
    # What recipes are chosen on is not what they are reported on.
    assert STAGES["validation"].scored != STAGES["test"].scored


def test_the_table_marks_noise() -> None:
    lines = table(_result()["rows"]).splitlines()
    assert lines[0] == "| model | seg miou |"
    assert lines[2:] == [
        "| base | 0.500 |",
        "| mine | 0.600 (+0.050 to +0.150) |",
        "| mine + base | 0.510 (-0.100 to +0.100, noise) |",
    ]


def test_the_table_of_earlier_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(_result()), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["recipes", "--table", str(path), str(path)])
    assert recipes.main() == 0
    assert capsys.readouterr().out.count("| mine |") == 2


def test_the_validation_part_of_camvid_leaves_a_gap(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        folder = tmp_path / "camvid" / "train" / kind
        folder.mkdir(parents=True)
        for number in range(300):
            (folder / f"{number:04d}.png").touch()
    place = recipes.camvid_tree(tmp_path / "camvid", "validation", tmp_path / "out")
    train, val = (
        sorted(p.stem for p in (place / s / "images").iterdir()) for s in ("train", "val")
    )
    assert (train[-1], val[0], val[-1]) == ("0266", "0277", "0299")
    assert recipes.camvid_tree(tmp_path / "camvid", "test", tmp_path / "out") == tmp_path / "camvid"


def _scored(name: str, values: list[float | None]) -> dict[str, Any]:
    rows = [{"samples": {}}, {"samples": {"rmse": values}}]
    return {"recipe": name, "reports": {"depth": {"rows": rows}}}


def test_recipes_against_each_other() -> None:
    control: list[float | None] = [0.5 + 0.01 * (i % 7) for i in range(40)]
    better = [v - 0.1 for v in control if v is not None]
    shaken = [v + (0.05 if i // 4 % 2 else -0.05) for i, v in enumerate(control) if v is not None]
    rows = [_scored("control", control), _scored("better", better), _scored("same", shaken)]
    lines = recipes.against(rows, "control").splitlines()
    assert lines[0] == "| minus control | depth rmse |"
    assert lines[2] == "| better | -0.100 (-0.100 to -0.100) |"
    assert lines[3].startswith("| same | +0.000 (-0.0") and lines[3].endswith("noise) |")
    with pytest.raises(SystemExit, match="no recipe 'other'"):
        recipes.against(rows, "other")
    with pytest.raises(SystemExit, match="other items"):
        recipes.against([rows[0], _scored("short", [0.1])], "control")
