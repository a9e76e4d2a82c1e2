"""Tables, drawings and lists of single items, each from known values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fit3d_cli.pages import curves, paired
from fit3d_cli.pages.axes import span, ticks
from fit3d_cli.pages.curves import Curve, curve
from fit3d_cli.pages.html import render
from fit3d_cli.pages.items import extremes, items_of, moved
from fit3d_cli.pages.measured import lead
from fit3d_cli.pages.pictures import Shown, encode_jpeg, figure, fitted
from fit3d_cli.pages.reproduce import probe_command
from fit3d_cli.pages.tables import flat_settings, settings_table
from fit3d_cli.report import Figure, Report, Row


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]), (-0.013, 0.021, [-0.01, 0.0, 0.01, 0.02]),
     (2.0, 2.0, [2.0]), (math.nan, 1.0, [math.nan])],
)  # fmt: skip
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected, nan_ok=True)
    assert span([math.nan, math.inf]) == (0.0, 1.0)
    lowest, highest = span([3.0, 3.0])
    assert lowest < 3 < highest


def test_worst_and_best_follow_the_direction_of_the_metric(
    make_report: Callable[..., Report],
) -> None:
    for task, sign in (("seg", 1), ("depth", -1)):
        report = make_report(task)
        items = items_of(report)
        assert items is not None and items.judged == "tuned" and items.sign == sign
        values = np.array(items.values["tuned"])
        worst, best = items.chosen()
        assert worst == list(np.argsort(sign * values, kind="stable")[:6])
        assert best == list(np.argsort(-sign * values, kind="stable")[:3])
        assert items.names[0] == "view 000.png"


def test_few_items_are_never_shown_twice(make_report: Callable[..., Report]) -> None:
    for count, sizes in ((1, (1, 0)), (6, (6, 0)), (7, (6, 1)), (9, (6, 3))):
        items = items_of(make_report(count=count))
        assert items is not None
        worst, best = items.chosen()
        assert (len(worst), len(best)) == sizes and not {*worst} & {*best}


def test_reports_without_names_or_samples(make_report: Callable[..., Report]) -> None:
    items = items_of(replace(make_report("corr"), items=()))
    assert items is not None and items.names[:2] == ("pair 1", "pair 2")
    alone = Report("seg", "x", (Row("base", {"miou": Figure(0.5, 3)}),), 3)
    assert items_of(alone) is None and items_of(Report("seg", "x", (), 0)) is None
    only = items_of(make_report(models=("base",)))
    assert only is not None and only.judged == "base" and moved(only) is None
    # An item that was not scored is in no list and in no drawing.
    report = make_report(count=3)
    rows = tuple(
        replace(r, samples={k: (math.nan, *v[1:]) for k, v in r.samples.items()})
        for r in report.rows
    )
    holes = items_of(replace(report, rows=rows))
    assert holes is not None and sorted([*holes.chosen()[0], *holes.chosen()[1]]) == [1, 2]
    drawn = paired.paired(holes, "tuned")
    assert drawn is not None and "of 2 images" in drawn.text


def test_gains_and_losses_are_told_apart(make_report: Callable[..., Report]) -> None:
    items = items_of(make_report(shift=0.0, count=30))
    assert items is not None
    text = render(moved(items))
    gains = items.gains("tuned")
    lost, gained = text.split("Gained most")
    assert items.names[int(np.argmin(gains))] in lost
    assert items.names[int(np.argmax(gains))] in gained
    assert "−" in lost and "+" in gained and "−" not in gained


def test_scatter_and_differences_count_rightly(make_report: Callable[..., Report]) -> None:
    items = items_of(make_report(shift=0.01))
    assert items is not None
    drawn = paired.paired(items, "tuned")
    assert drawn is not None
    gains = items.gains("tuned")
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    assert f"better on {better} of 40 images, worse on {worse}" in drawn.text
    assert drawn.text.count('"point better"') == better
    assert drawn.text.count('"point worse"') == worse
    paths = re.findall(r'class="bars (\w+)" d="([^"]+)"', drawn.text)
    assert {style: d.count("M") for style, d in paths} == {"better": better, "worse": worse}
    assert drawn.text.count('role="img"') == 2


def test_many_items_are_thinned_and_keep_both_ends(
    monkeypatch: pytest.MonkeyPatch, make_report: Callable[..., Report]
) -> None:
    monkeypatch.setattr(paired, "MAX_POINTS", 10)
    items = items_of(make_report(count=500))
    assert items is not None
    drawn = paired.paired(items, "tuned")
    assert drawn is not None and drawn.text.count("<circle") == 10
    assert "Difference of each of 500" in drawn.text


def test_right_or_wrong_is_counted_not_drawn(make_report: Callable[..., Report]) -> None:
    items = items_of(make_report("cls", count=50))
    assert items is not None and items.metric.name == "top1"
    pairs = list(zip(items.values["base"], items.values["tuned"], strict=True))
    drawn = paired.paired(items, "tuned")
    assert drawn is not None and "<circle" not in drawn.text
    for label, pair in (("both right", (1, 1)), ("only tuned right", (0, 1)), ("none", (0, 0))):
        assert re.search(rf"{label}\w*(?: right)?: {pairs.count(pair)}\b", drawn.text)


def test_examples_show_pictures_with_names(
    make_report: Callable[..., Report], show: Any, read: Any
) -> None:
    items = items_of(make_report())
    assert items is not None
    page = read(render(extremes(items, show)))
    assert page.count("article") == 9 and page.count("img") == 27
    kinds = [str(a["src"]).split(";")[0] for t, a in page.tags if t == "img"]
    assert kinds[:3] == ["data:image/jpeg", "data:image/png", "data:image/png"]
    alts = [a["alt"] for t, a in page.tags if t == "img"]
    worst = items.names[items.ranked()[0]]
    assert alts[:3] == [f"photo: {worst}", f"labels: {worst}", f"base: {worst}"]
    assert page.count("article") and render(extremes(items)).count("<table") == 2


def test_pictures_are_scaled_down_never_up() -> None:
    assert fitted(4000, 1000, 400) == (400, 100) and fitted(30, 20, 400) == (30, 20)
    assert fitted(4000, 1, 400) == (400, 1)
    pixels = np.zeros((300, 400, 3), np.uint8)
    assert 'width="200" height="150"' in figure(Shown("a", pixels), "b", 200).text
    assert encode_jpeg(pixels, (40, 30)) == encode_jpeg(pixels, (40, 30))


def test_curves_are_binned_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list(range(1, 1001))
    values = [1 / step for step in steps]
    monkeypatch.setattr(curves, "MAX_BINS", 50)
    drawn = curve(Curve("Objective", steps, values))
    assert drawn is not None and 'class="band"' in drawn.text
    (line,) = re.findall(r'class="line" d="([^"]+)"', drawn.text)
    assert line.count("L") == 49
    smooth = curve(Curve("Objective", steps, values, noisy=True))
    assert smooth is not None and 'class="band"' in smooth.text and smooth.text != drawn.text
    dots = curve(Curve("Held out", [0, 5, 10], [3.0, 2.0, 1.0], dots=True, level=(3.0, "base")))
    assert dots is not None and dots.text.count('class="knot"') == 3 and ">base</text>" in dots.text
    assert curve(Curve("x", [1], [1.0])) is None
    assert curve(Curve("x", [1, 2], [1.0, math.nan])) is None
    flat = curve(Curve("x", [1, 2], [2.0, 2.0]))
    assert flat is not None and not re.search(r"\bnan\b", flat.text)


@pytest.mark.parametrize(
    ("shift", "words"),
    [(0.2, "tuned and concat are better than base"), (0.0, "within noise of base"),
     (-0.2, "tuned and concat are worse than base")],
)  # fmt: skip
def test_the_answer_comes_in_one_plain_sentence(
    make_report: Callable[..., Report], shift: float, words: str
) -> None:
    assert words in lead(make_report(shift=shift))


def test_one_model_alone_is_not_judged(make_report: Callable[..., Report]) -> None:
    text = lead(make_report(models=("base",)))
    assert text.startswith("base alone was measured") and "over 40 images" in text
    assert "Nothing was measured" in lead(Report("seg", "x", (), 0))


def test_the_command_repeats_everything_that_differs(make_report: Callable[..., Report]) -> None:
    report = replace(make_report(), dataset="my office", settings={"a": {"b": (1, 2)}, "c": True})
    assert probe_command(report, {"--tuned": "mine", "--data": ""}) == (
        "fit3d probe seg 'my office' --tuned mine --set probe.a.b=1,2 --set probe.c=true --seed 3"
    )


def test_settings_stand_beside_their_defaults(read: Any) -> None:
    text = settings_table({"a": {"b": 1}, "c": "/home/ann/x"}, {"a": {"b": 2}, "c": ""}).text
    assert read(text).text["code"] == ["a.b", "1", "2", "c", "…/x", "(empty)"]
    assert flat_settings({"a": {"b": [1, "x"]}, "c": None}) == {"a.b": "1,x", "c": "None"}
