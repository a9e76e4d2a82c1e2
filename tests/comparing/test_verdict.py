from __future__ import annotations

import math

import numpy as np
import pytest

from fit3d_cli.comparing.metrics import metric, number, signed
from fit3d_cli.comparing.verdict import (
    best_models,
    comparisons,
    headline,
    sentence,
    summary_rows,
    tally,
)
from fit3d_cli.report import Report, Row

HARD = np.random.default_rng(0).uniform(0.3, 0.7, 40)
NOISE = np.random.default_rng(1).normal(0, 0.02, 40)


def report(name: str, *models: tuple[str, np.ndarray], task: str = "depth") -> Report:  # type: ignore[type-arg]
    rows = tuple(
        Row(model, {name: float(values.mean())}, {name: tuple(values.tolist())})
        for model, values in models
    )
    return Report(task, "office", rows, 40)


@pytest.mark.parametrize(
    ("name", "label", "higher"),
    [
        ("miou", "mIoU", True),
        ("rmse", "RMSE", False),
        ("abs_rel", "abs. rel. error", False),
        ("delta1", "δ < 1.25", True),
        ("recall@16px", "recall @16px", True),
        ("rmse_log", "RMSE (log)", False),
        ("image_miou", "mIoU per image", True),
        ("zorks", "zorks", None),
    ],
)
def test_metric_names_and_directions(name: str, label: str, higher: bool | None) -> None:
    found = metric(name)
    assert (found.label, found.higher_is_better) == (label, higher)


@pytest.mark.parametrize(
    ("name", "shift", "outcome"),
    [
        ("rmse", -0.1, "better"),
        ("rmse", 0.1, "worse"),
        ("acc", 0.1, "better"),
        ("acc", -0.1, "worse"),
        ("acc", 0.0, "within noise"),
        ("zorks", 0.1, "no interval"),
    ],
)
def test_outcomes(name: str, shift: float, outcome: str) -> None:
    noise = NOISE - NOISE.mean()
    (found,) = comparisons(report(name, ("base", HARD), ("tuned", HARD + shift + noise + 1e-5)))
    assert found.outcome == outcome
    assert found.difference == pytest.approx(shift + 1e-5)


def test_few_images_prove_nothing() -> None:
    few = report("rmse", ("base", HARD[:5]), ("tuned", HARD[:5] - 0.1))
    (found,) = comparisons(few)
    assert found.outcome == "no interval" and "too few" in sentence(found)


def test_the_same_model_is_equal() -> None:
    (found,) = comparisons(report("rmse", ("base", HARD), ("tuned", HARD)))
    assert found.outcome == "equal"


def test_a_split_metric_is_judged_by_its_per_image_relative() -> None:
    def row(model: str, miou: float, values: np.ndarray) -> Row:  # type: ignore[type-arg]
        samples = {"image_miou": tuple(values.tolist())}
        return Row(model, {"miou": miou, "image_miou": float(values.mean())}, samples)

    rows = (
        row("base", 0.4, HARD),
        row("tuned", 0.5, HARD + 0.1),
        row("concat", 0.3, HARD + 0.1),
        row("third", 0.4, HARD + 0.1),
    )
    seg = Report("seg", "street", rows, 40)
    assert headline(seg) == metric("miou")
    found = {c.model: c for c in comparisons(seg) if c.metric.name == "miou"}
    assert found["tuned"].outcome == "better"
    assert "mIoU per image +0.100, 95 % interval" in sentence(found["tuned"])
    # The two figures contradict each other: nothing may be claimed.
    assert found["concat"].outcome == found["third"].outcome == "within noise"


def test_no_samples_no_claim() -> None:
    plain = Report("seg", "s", (Row("base", {"miou": 0.4}), Row("tuned", {"miou": 0.5})), 9)
    (found,) = comparisons(plain)
    assert found.outcome == "no interval" and "nothing says how surely" in sentence(found)


def test_best_follows_the_direction_and_ties_are_shared() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 2.0, "d": math.nan}
    for name, best in (("acc", {"b", "c"}), ("rmse", {"a"}), ("zorks", set())):
        rows = tuple(Row(model, {name: value}) for model, value in values.items())
        assert best_models(Report("t", "d", rows, 1), name) == best


def test_summary_rows_and_tally() -> None:
    good = report("rmse", ("base", HARD), ("tuned", HARD - 0.1))
    noisy = report("acc", ("base", HARD), ("tuned", HARD + NOISE - NOISE.mean()), task="seg")
    rows = summary_rows([good, noisy])
    assert [(r["task"], r["model"], r["verdict"]) for r in rows] == [
        ("depth", "base", "reference"),
        ("depth", "tuned", "better"),
        ("seg", "base", "reference"),
        ("seg", "tuned", "within noise"),
    ]
    assert rows[1]["low"] - 1e-9 <= rows[1]["difference"] <= rows[1]["high"] + 1e-9 < 0
    assert rows[0]["low"] is None and rows[1]["best"] and not rows[0]["best"]
    words = tally([good, noisy], "tuned")
    assert words == "tuned against base, 2 tasks: better on 1, within noise on 1."
    assert tally([], "tuned") == "" and summary_rows([Report("seg", "s", (), 0)]) == []


def test_numbers() -> None:
    values = (0.0, 0.4567, 0.01234, 12.345, 1234.5, 0.00012, math.nan)
    assert [number(v) for v in values] == [
        "0", "0.457", "0.0123", "12.35", "1234", "0.00012", "–",
    ]  # fmt: skip
    assert [signed(v) for v in (0.1, -0.1, 0.0)] == ["+0.100", "−0.100", "0"]
