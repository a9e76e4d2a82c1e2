from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fit3d_cli.pages.metrics import metric, number, ordered, shown_first, signed
from fit3d_cli.pages.verdict import (
    best_models,
    clear_winner,
    comparisons,
    headline,
    sentence,
    summary_rows,
    tally,
)
from fit3d_cli.probing.metrics import DEPTH_METRICS
from fit3d_cli.report import Figure, Report, Row
from fit3d_cli.statistics import Measured, Pooled, make_rows

HARD = np.random.default_rng(0).uniform(0.3, 0.7, 40)
NOISE = np.random.default_rng(1).normal(0, 0.02, 40)


def report(name: str, *models: tuple[str, np.ndarray], task: str = "depth") -> Report:  # type: ignore[type-arg]
    rows = make_rows({model: Measured({name: values.tolist()}) for model, values in models})
    return Report(task, "office", rows, len(models[0][1]), "views")


def plain(**values: float) -> tuple[Row, ...]:
    """Rows without intervals, of the metric ``miou``."""
    return tuple(
        Row(model, {"miou": Figure(value, 1)},
            {"miou": Figure(value - values["base"], 1)} if model != "base" else {})
        for model, value in values.items()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "label", "higher"),
    [
        ("miou", "mIoU", True),
        ("rmse", "RMSE", False),
        ("abs_rel", "abs. rel. error", False),
        ("recall@16px", "recall @16px", True),
        ("rmse_log", "RMSE (log)", False),
        ("image_miou", "mIoU per image", True),
        ("recall@1patch", "recall @1patch", True),
        ("recall@1patch:0-15deg", "recall @1patch 0–15°", True),
        ("recall@10px:0.5depth+", "recall @10px over 0.5 of the depth", True),
        ("ape", "APE, %", False),
        ("pcdp@.05", "PCDP @.05", True),
        ("top1", "top-1 accuracy", True),
        ("patch_top5", "top-5, mean of patches", True),
        ("pck@0.10", "PCK @0.10", True),
        ("same pck@0.10 by pairs", "same PCK @0.10 by pairs", True),
        ("aj", "average Jaccard", True),
        ("oa", "occlusion accuracy", True),
        ("delta_avg", "δ average", True),
        ("delta@4", "δ @4", True),
        ("3cm 3deg", "within 3 cm and 3°", True),
        ("silog", "SILog", False),
        ("delta1", "δ < 1.25", True),
        ("delta", "δ", True),
        ("zorks", "zorks", None),
    ],
)
def test_metric_names_and_directions(name: str, label: str, higher: bool | None) -> None:
    found = metric(name)
    assert (found.label, found.higher_is_better) == (label, higher)


def test_every_figure_of_the_linear_probes_is_judged() -> None:
    names = [*DEPTH_METRICS, "miou", "macc", "aacc", "image_miou", "image_acc"]
    assert [name for name in names if metric(name).higher_is_better is None] == []
    assert shown_first("depth", DEPTH_METRICS) == ["rmse", "abs_rel", "delta1"]


@pytest.mark.parametrize(
    ("name", "shift", "outcome"),
    [
        ("rmse", -0.1, "better"),
        ("rmse", 0.1, "worse"),
        ("acc", 0.1, "better"),
        ("acc", -0.1, "worse"),
        ("acc", 0.0, "within noise"),
        ("zorks", 0.1, "undecided"),
    ],
)
def test_outcomes(name: str, shift: float, outcome: str) -> None:
    noise = NOISE - NOISE.mean()
    (found,) = comparisons(report(name, ("base", HARD), ("tuned", HARD + shift + noise + 1e-5)))
    assert found.outcome == outcome
    assert found.difference == pytest.approx(shift + 1e-5)


def test_few_items_prove_nothing() -> None:
    few = report("rmse", ("base", HARD[:5]), ("tuned", HARD[:5] - 0.1))
    (found,) = comparisons(few)
    assert found.outcome == "undecided" and "too few" in sentence(found)


def test_the_same_model_is_equal() -> None:
    (found,) = comparisons(report("rmse", ("base", HARD), ("tuned", HARD)))
    assert found.outcome == "equal"


def test_a_figure_of_the_whole_split_has_its_own_interval() -> None:
    def pooled(values: np.ndarray) -> Measured:  # type: ignore[type-arg]
        sums = torch.stack([torch.tensor(values), torch.ones(40, dtype=torch.float64)], dim=1)
        return Measured(pooled={"miou": Pooled(sums, lambda total: total[..., 0] / total[..., 1])})

    rows = make_rows({"base": pooled(HARD), "tuned": pooled(HARD + 0.1 + NOISE)})
    seg = Report("seg", "street", rows, 40)
    assert headline(seg) == metric("miou") and not rows[0].samples
    (found,) = comparisons(seg)
    assert found.outcome == "better"
    assert "over 40 images" in sentence(found) and "95 % interval +0.0" in sentence(found)


def test_no_interval_no_claim() -> None:
    (found,) = comparisons(Report("seg", "s", plain(base=0.4, tuned=0.5), 9))
    assert found.outcome == "undecided" and "nothing says how surely" in sentence(found)
    assert "no interval: 1 images" in sentence(found)


def test_many_items_of_few_groups_prove_nothing() -> None:
    alike = [index // 8 for index in range(len(HARD))]  # five scenes of eight frames
    measured = {"base": Measured({"acc": HARD}), "tuned": Measured({"acc": HARD + 0.1})}
    rows = make_rows(measured, groups=alike)
    (found,) = comparisons(Report("seg", "street", rows, len(HARD)))
    assert found.outcome == "undecided"
    assert "no interval: 40 images in fewer than 6 groups" in sentence(found)


def test_a_winner_is_clear_only_beyond_noise() -> None:
    good = ("tuned", HARD + 0.1)
    level = ("concat", HARD + NOISE - NOISE.mean() + 1e-4)
    for models, winner in (
        ((("base", HARD), good, level), "tuned"),
        ((("base", HARD), level), ""),
        ((("base", HARD), good, ("concat", level[1] + 0.1)), ""),  # which of the two, is noise
        ((("base", HARD), good, ("concat", level[1] + 0.2)), "concat"),
        ((("base", HARD), ("tuned", HARD - 0.1), ("concat", HARD - 0.2)), "base"),
        ((("base", HARD), ("tuned", HARD - 0.1), ("concat", level[1] - 2e-4)), ""),
        ((("base", HARD),), ""),
    ):
        assert clear_winner(report("acc", *models), "acc") == winner


@pytest.mark.parametrize(
    ("task", "names", "first"),
    [
        ("corr", ["ape", "recall@10px", "recall@1patch", "recall@1patch:0-15deg"], "recall@1patch"),
        ("seg", ["aacc", "miou"], "miou"),
        ("depth", ["delta1", "rmse"], "rmse"),
        ("cls", ["patch_top1", "top1"], "top1"),
        ("cls", ["patch_top1"], "patch_top1"),
        ("transfer", ["pck@0.05", "pck@0.10"], "pck@0.10"),
        ("transfer", ["pck@0.05"], "pck@0.05"),
        (
            "transfer",
            ["pck@0.10 of a pair", "same pck@0.10", "different pck@0.10"],
            "different pck@0.10",
        ),
        ("track", ["oa", "aj"], "aj"),
        ("pose", ["1cm 1deg", "5cm 5deg"], "5cm 5deg"),
        ("new", ["zorks", "acc"], "acc"),
        ("new", ["zorks"], None),
    ],
)
def test_what_a_task_is_judged_by(task: str, names: list[str], first: str | None) -> None:
    assert next(iter(shown_first(task, names)), None) == first
    assert sorted(ordered(task, names)) == sorted(names)


def test_bins_rise_behind_the_whole_figures() -> None:
    names = ["ape:0.1-0.25depth", "ape:0-0.1depth", "ape:0.5depth+", "x", "ape", "recall@1patch",
             "recall@1patch:30-60deg", "recall@1patch:0-15deg"]  # fmt: skip
    assert ordered("corr", names) == [
        "recall@1patch", "recall@1patch:0-15deg", "recall@1patch:30-60deg", "ape", "x",
        "ape:0-0.1depth", "ape:0.1-0.25depth", "ape:0.5depth+",
    ]  # fmt: skip


def test_best_follows_the_direction_and_ties_are_shared() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 2.0, "d": math.nan}
    for name, best in (("acc", {"b", "c"}), ("rmse", {"a"}), ("zorks", set())):
        rows = tuple(Row(model, {name: Figure(value, 9)}) for model, value in values.items())
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
    assert not any(r["best"] for r in rows[2:]), "what is within noise is not called best"
    assert (rows[1]["count"], rows[1]["over"]) == (40, "views")
    assert rows[1]["value_low"] < rows[1]["value"] < rows[1]["value_high"]
    words = tally([good, noisy], "tuned")
    assert words == "tuned against base, 2 tasks: better on 1, within noise on 1."
    assert tally([], "tuned") == "" and summary_rows([Report("seg", "s", (), 0)]) == []


def test_numbers() -> None:
    values = (0.0, 0.4567, 0.01234, 12.345, 1234.5, 0.00012, math.nan)
    assert [number(v) for v in values] == [
        "0", "0.457", "0.0123", "12.35", "1234", "0.00012", "–",
    ]  # fmt: skip
    assert [signed(v) for v in (0.1, -0.1, 0.0)] == ["+0.100", "−0.100", "0"]
