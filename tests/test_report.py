"""Reports: JSON out and in."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from fit3d_cli.errors import ArchiveError
from fit3d_cli.report import SCHEMA, Figure, Report, Row
from fit3d_cli.statistics import Measured, make_rows

ROWS = make_rows({
    "base": Measured({"rmse": [0.5, 0.75, 0.25, 1.0]}),
    "tuned": Measured({"rmse": [0.25, 0.5, 0.5, 0.5]}),
})  # fmt: skip
REPORT = Report(
    "depth", "office", ROWS, 4, "pairs", {"steps": 7, "corr": {"pairs": 3}}, ("A note.",),
    {"cosine": Figure(0.75, 24, 0.5, 1.0), "norm_ratio": Figure(1.25, 1)}, 5,
)  # fmt: skip


def test_round_trip() -> None:
    text = json.dumps(REPORT.to_dict(), allow_nan=False)
    again = Report.from_json(text, where="r.json")
    assert again.to_dict() == REPORT.to_dict()
    # NaN is not equal to itself; everything else is.
    assert replace(again, drift={}) == replace(REPORT, drift={})
    assert again.drift["cosine"] == REPORT.drift["cosine"]
    assert math.isnan(again.drift["norm_ratio"].low) and not again.drift["norm_ratio"].has_interval


def test_cautions_are_notes_that_summaries_repeat() -> None:
    assert replace(REPORT, notes=("a", "caution: b", "c")).cautions == ("b",)


def test_the_layout_is_the_documented_one() -> None:
    told = REPORT.to_dict()
    assert told["schema"] == SCHEMA == 2
    assert set(told) == {
        "schema", "task", "dataset", "count", "over", "rows", "drift", "settings", "notes",
        "seed", "items",
    }  # fmt: skip
    assert set(told["rows"][1]) == {"model", "figures", "differences", "samples"}
    assert set(told["rows"][1]["figures"]["rmse"]) == {"value", "n", "low", "high"}
    assert told["rows"][0]["differences"] == {}
    assert told["rows"][1]["differences"]["rmse"]["value"] == pytest.approx(-0.1875)
    assert REPORT.rows[0].metrics == {"rmse": 0.625}


def test_what_is_not_finite_becomes_null_and_comes_back() -> None:
    row = Row("base", {"x": Figure(math.nan, 0)}, {}, {"x": (math.nan, 1.0, math.inf)})
    text = json.dumps(replace(REPORT, rows=(row,)).to_dict(), allow_nan=False)
    assert json.loads(text)["rows"][0]["samples"]["x"] == [None, 1.0, None]
    back = Report.from_json(text, where="r").rows[0]
    assert math.isnan(back.figures["x"].value) and math.isnan(back.samples["x"][2])


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("rows"),
        lambda told: told.pop("over"),
        lambda told: told["rows"][0].pop("figures"),
        lambda told: told["rows"][0]["figures"]["rmse"].pop("n"),
        lambda told: told["rows"][0]["figures"]["rmse"].update(value="much"),
        lambda told: told.update(rows=3),
        lambda told: told.update(count="many"),
        lambda told: told.pop("schema"),
        lambda told: told.update(count=math.inf),
    ],
)
def test_damage_is_named(change: object) -> None:
    told = json.loads(json.dumps(REPORT.to_dict()))
    change(told)  # type: ignore[operator]
    with pytest.raises(ArchiveError) as caught:
        Report.from_json(json.dumps(told), where="r.json")
    assert caught.value.where == "r.json" and "not a fit3d report" in caught.value.what


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000])
def test_what_is_no_report_is_said(text: str) -> None:
    with pytest.raises(ArchiveError, match="not a fit3d report"):
        Report.from_json(text, where="r.json")


@pytest.mark.parametrize("schema", [1, 3, "2"])
def test_another_schema_is_named(schema: object) -> None:
    text = json.dumps({**REPORT.to_dict(), "schema": schema})
    with pytest.raises(ArchiveError, match=f"report schema {schema}, this version reads 2"):
        Report.from_json(text, where="r.json")
