"""The page of a probe: structure, hostile data, the same bytes, pictures that fail."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.errors import ImageError
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.probing import page
from fit3d_cli.probing.page import build_page, write_page
from fit3d_cli.report import Report
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.statistics import Measured, make_rows

EVIL = ("<script>alert(1)</script>", "\"><img src=x onerror='a()'>", "\u202egnp.exe", "a\udcff\x07")


@pytest.fixture
def report() -> Report:
    values = np.linspace(0.8, 0.2, 20)  # the oddly named ones are the worst
    rows = make_rows({"base": Measured({"rmse": values.tolist()}),
                      "tuned": Measured({"rmse": (values - 0.1).tolist()})})  # fmt: skip
    names = (*EVIL, *(f"v{i}" for i in range(16)))
    notes = ("base: vit, weights sha256 0123456789ab", "caution: <b>seen</b>")
    return Report(
        "depth", "office", rows, 20, settings={"steps": 9}, items=names, seed=1, notes=notes
    )


def pictures(index: int) -> list[Shown]:
    pixels = np.full((24, 32, 3), index, np.uint8)
    return [Shown("photo", pixels, photo=True), Shown("tuned", pixels)]


def page_of(report: Report, show: Any = pictures) -> str:
    return build_page(report, command="fit3d probe depth office", facts={"seed": "1"}, show=show)


def test_sections_come_in_the_order_of_their_weight(report: Report) -> None:
    text = page_of(report)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Verdict", "Figures", "Item by item", "Worst and best", "How it was measured",
        "Settings that differ from the defaults", "Reproduce",
    ]  # fmt: skip
    assert "tuned is better than base" in text and "fit3d probe depth office" in text
    assert text.index("Caution") < text.index("<body") or "remarks caution" in text
    assert len(text) < 5_000_000


def test_nothing_from_data_becomes_markup(report: Report) -> None:
    evil = replace(
        report, dataset=EVIL[0], over=EVIL[1], notes=(*report.notes, EVIL[1]),
        settings={EVIL[0]: EVIL[1]},
        rows=(report.rows[0], replace(report.rows[1], model=EVIL[1])),
    )  # fmt: skip
    text = page_of(evil)
    text.encode("utf-8")
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(text)
    assert sum(tag == "script" for tag, _ in tags) == 2
    sources = [str(a["src"]) for tag, a in tags if tag == "img"]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert not [key for _, attrs in tags for key in attrs if key.startswith("on")]
    assert "<b>seen" not in text and "\x07" not in text
    assert re.search("<bdi>\u202egnp.exe</bdi>", text)


def test_the_data_block_equals_the_report(report: Report) -> None:
    clean = replace(report, items=report.items[4:] * 2, notes=("plain",))
    (block,) = re.findall(r'<script type="application/json" id="fit3d-report">(.*?)</script>',
                          page_of(clean))  # fmt: skip
    assert json.loads(block) == clean.to_dict()
    assert Report.from_json(block, where="page") == clean


def test_same_inputs_same_bytes(report: Report, tmp_path: Path) -> None:
    paths = [
        write_page(tmp_path / name, report, ProbeSettings(), torch.device("cpu"), pictures)
        for name in ("a.html", "b.html")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_nobody_learns_where_things_lie(report: Report, tmp_path: Path) -> None:
    settings = ProbeSettings(data="/home/ann/data", tuned="/home/ann/models/mine")
    path = write_page(tmp_path / "a.html", report, settings, torch.device("cpu"), None)
    text = path.read_text("utf-8")
    assert "--data …/data" in text.replace("&#x27;", "") and "…/mine" in text
    assert "/home" not in text and str(tmp_path) not in text


def test_pictures_that_fail_or_are_too_large_leave_a_table(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(index: int) -> list[Shown]:
        raise ImageError("no such file", where="x.png")

    text = page_of(report, gone)
    assert "No pictures: no such file." in text and "<img" not in text
    assert page_of(report, None).count("<img") == 0
    assert page_of(report).count("<img") == 18
    monkeypatch.setattr(page, "MAX_BYTES", 100)
    text = page_of(report)
    assert "too large" in text and "<img" not in text


def test_every_shape_of_report_makes_a_page(report: Report) -> None:
    for odd in (
        replace(report, rows=report.rows[:1]), replace(report, rows=()),
        replace(report, settings={}, notes=(), items=()), replace(report, task="?", over=""),
    ):  # fmt: skip
        text = page_of(odd, None)
        assert "<h2>Verdict</h2>" in text and not re.search(r"\bnan\b", text)
