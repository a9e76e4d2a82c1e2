from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli.comparing import page
from fit3d_cli.comparing.page import PageFacts, build_page, write_report
from fit3d_cli.comparing.pictures import FeaturePicture, compare_pictures
from fit3d_cli.report import Figure, Report, Row
from tests.pages.reading import Reader

EVIL = "<script>alert(1)</script>.png"


@pytest.fixture
def pictures(photos: list[Path], fake: Callable[..., Any]) -> tuple[FeaturePicture, ...]:
    names = [EVIL, 'quote" onerror="x.png', "room/c.png"]
    return compare_pictures(
        photos, fake(), fake(gain=1.5), width=48, batch=2, clusters=3, names=names
    )


FACTS = PageFacts(
    base="vit <base>",
    tuned="/home/ann/models/tuned & co",
    scenes=({"name": "</script><b>", "gaussians": 12345, "psnr_heldout": 21.25, "x": math.nan},),
    settings={"compare.backbone.weights": "/home/ann/w.safetensors", "compare.images": 3},
    commands=("fit3d probe depth office --set probe.data=/home/ann/data", "fit3d compare"),
    remarks=("Left out <i>bad.json</i>.",),
    facts={"torch": "2.x"},
)


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="fit3d-compare">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


def test_page_is_well_formed_and_says_it_all(
    pictures: tuple[FeaturePicture, ...], make_report: Callable[..., Report]
) -> None:
    text = build_page([make_report("depth"), make_report("seg", shift=0.1)], pictures, FACTS)
    reader = Reader(text)
    headings = reader.text["h2"]
    assert headings == [
        "Verdict", "Measurements", "Features", "Scenes", "Settings that differ from the defaults",
        "Reproduce",
    ]  # fmt: skip
    assert "tuned against base, 2 tasks: better on 2." in reader.text["bdi"]
    assert reader.count("svg") == 2 + 4 and reader.count("img") == 15 and reader.count("input") == 6
    bold = [a for tag, a in reader.tags if tag == "td" and a.get("class") == "best"]
    assert len(bold) == 2 + 4, "best in bold, in the verdict and of both metrics in both tables"
    drift = "cosine to the base 0.750 (0.700 to 0.800), length ratio to the base 1.250"
    assert sum(drift in text for text in reader.text["p"]) == 2
    assert "RMSE\u00a0↓" in reader.text["td"] and "RMSE\u00a0↓" in reader.text["th"]
    assert all(a.get("alt") for tag, a in reader.tags if tag == "img")


@pytest.mark.parametrize("task", ["corr", "cls", "transfer", "track", "pose"])
def test_every_task_has_intervals_counts_and_a_verdict(
    task: str, make_report: Callable[..., Report]
) -> None:
    report = make_report(task, shift=0.0, count=20)
    text = build_page([report], [], FACTS)
    reader = Reader(text)
    over = "pairs" if task == "corr" else "images"
    assert f"20 {over}" in reader.text["p"] and "not decided" in reader.text["td"]
    base = report.rows[0].figures[next(iter(report.rows[0].figures))]
    assert f"{base.low:.3f} to {base.high:.3f}" in reader.text["span"]
    assert any("within noise" in words for words in reader.text["span"])
    assert reader.count("svg") == 3, "forest, scatter, sorted differences"
    winner = Reader(build_page([make_report(task, shift=0.2)], [], FACTS))
    assert "tuned" in winner.text["bdi"] and "not decided" not in winner.text["td"]


def test_everything_from_data_is_escaped(
    pictures: tuple[FeaturePicture, ...], make_report: Callable[..., Report]
) -> None:
    good = make_report()
    evil = Report(
        "<img src=x>", "</td><script>", (good.rows[0], replace(good.rows[1], model="<u>")),
        30, "<b>", {"<k>": "</code>"}, ("</p><script>alert(2)</script>",), {"<i>": Figure(1.0, 2)},
    )  # fmt: skip
    reader = Reader(build_page([evil], pictures, FACTS))
    assert reader.count("script") == 2, "only the data block and our own script"
    assert {"b", "i", "u"}.isdisjoint(tag for tag, _ in reader.tags)
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert EVIL in reader.text["bdi"]
    assert sum(a.get("src") == "x" for _, a in reader.tags) == 0


def test_page_asks_for_nothing_outside_itself(
    pictures: tuple[FeaturePicture, ...], make_report: Callable[..., Report]
) -> None:
    text = build_page([make_report()], pictures, FACTS)
    written = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<iframe|fetch\(|XMLHttp", written)
    for _, attributes in Reader(text).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    policy = next(a for t, a in Reader(text).tags if a.get("http-equiv"))["content"]
    assert policy is not None and policy.startswith("default-src 'none'")


def test_page_tells_nobody_where_things_lie(
    pictures: tuple[FeaturePicture, ...], make_report: Callable[..., Report]
) -> None:
    text = build_page([make_report()], pictures, FACTS)
    assert "/home" not in text and "ann" not in re.sub(r"base64,[^\"]*|[a-z]ann|ann[a-z]", "", text)
    assert "…/w.safetensors" in text


def test_json_block_parses_back(
    pictures: tuple[FeaturePicture, ...], make_report: Callable[..., Report]
) -> None:
    report = make_report()
    data = data_of(build_page([report], pictures, FACTS))
    assert data["pictures"][0]["name"] == EVIL
    assert data["scenes"][0] == {
        "name": "</script><b>", "gaussians": 12345, "psnr_heldout": 21.25, "x": None,
    }  # fmt: skip
    assert data["summary"][1]["verdict"] == "better"
    again = Report.from_json(json.dumps(data["reports"][0]), where="page")
    assert again.rows[1].samples["rmse"] == pytest.approx(report.rows[1].samples["rmse"], rel=1e-6)


def test_page_without_measurements_or_pictures() -> None:
    reader = Reader(build_page([], [], PageFacts()))
    assert reader.text["h2"] == ["Verdict"]
    assert any("Nothing has been measured" in text for text in reader.text["p"])


def test_odd_reports_do_not_break_the_page() -> None:
    nan = Figure(math.nan, 0)
    half = Figure(0.5, 3)
    odd = [
        Report("seg", "empty", (), 0),
        Report("seg", "alone", (Row("tuned", {"miou": half}),), 3),
        Report("seg", "gap", (Row("base", {"miou": nan}),
                              Row("tuned", {"miou": half}, {"miou": nan})), 3),
        Report("x", "unknown", (Row("base", {"zorks": half}), Row("tuned", {"other": half})), 3),
    ]  # fmt: skip
    text = build_page(odd, [], PageFacts())
    Reader(text)
    assert "nan" not in text.lower()


def test_same_inputs_same_bytes(
    tmp_path: Path, pictures: tuple[FeaturePicture, ...], make_report: Callable[..., Report]
) -> None:
    paths = [tmp_path / "one" / "index.html", tmp_path / "two" / "index.html"]
    for path in paths:
        assert write_report(path, [make_report()], pictures, FACTS) == path
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_pictures_beyond_the_budget_are_counted(
    pictures: tuple[FeaturePicture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = len(build_page([], pictures, FACTS)) - len(build_page([], pictures[:2], FACTS))
    monkeypatch.setattr(page, "MAX_BYTES", int(card * 2.2))
    reader = Reader(build_page([], pictures, FACTS))
    assert reader.count("img") == 10
    assert "1 more beside this page as PNG files." in reader.text["p"]
