"""Intervals: against every possible resample, by simulation, paired, pooled, grouped."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fit3d_cli import statistics
from fit3d_cli.report import Figure
from fit3d_cli.statistics import Measured, Pooled, make_rows, mean_figure


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ratio(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


def miou(sums: Tensor) -> Tensor:
    """``[..., 2 K]`` hits and unions to the mean over classes that occur."""
    hits, union = sums.chunk(2, dim=-1)
    there = union > 0
    shares = torch.where(there, hits / union.clamp(min=1), 0.0)
    return shares.sum(-1) / there.sum(-1)


def test_two_items_by_hand() -> None:
    # Means of resamples are 0, 1/2, 1 with chance 1/4, 1/2, 1/4.
    figure = mean_figure([0.0, 1.0])
    assert (figure.value, figure.n, figure.low, figure.high) == (0.5, 2, 0.0, 1.0)


def test_against_every_possible_resample() -> None:
    values = torch.tensor([0.9, 0.4, 0.7, 0.1, 0.6], dtype=torch.float64)
    means = [values[list(pick)].mean() for pick in itertools.product(range(5), repeat=5)]
    ends = torch.quantile(torch.stack(means), torch.tensor([0.025, 0.975]).double())
    figure = mean_figure(values.tolist())
    assert (figure.low, figure.high) == pytest.approx(ends.tolist(), abs=0.02)


def test_pooled_figure_against_every_possible_resample() -> None:
    # Hits and unions of two classes; the second picture has the first class only.
    sums = torch.tensor(
        [[6.0, 1, 10, 8], [2, 0, 9, 0], [5, 4, 5, 6], [3, 2, 4, 7], [8, 0, 9, 3]],
        dtype=torch.float64,
    )
    (row,) = make_rows({"base": Measured(pooled={"miou": Pooled(sums, miou)})})
    found = row.figures["miou"]
    assert found.value == pytest.approx((24 / 37 + 7 / 24) / 2) and found.n == 5
    picks = torch.tensor(list(itertools.product(range(5), repeat=5)))
    ends = torch.quantile(miou(sums[picks].sum(1)), torch.tensor([0.025, 0.975]).double())
    assert (found.low, found.high) == pytest.approx(ends.tolist(), abs=0.02)
    assert not row.samples, "a pooled figure has no value per item"


def test_coverage_is_near_nominal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 500)
    hits = grouped = 0
    for trial in range(200):
        values = draw(50, seed=trial) * 0.2 + 0.3
        figure = mean_figure(values.tolist(), seed=trial)
        hits += figure.low <= 0.3 <= figure.high
        # Thirty groups of four that share most of what they are.
        shared = (draw(30, seed=1000 + trial)[:, None] + 0.2 * draw(30, 4, seed=trial)).flatten()
        labels = [i // 4 for i in range(120)]
        honest = mean_figure(shared.tolist(), groups=labels, seed=trial)
        grouped += honest.low <= 0 <= honest.high
        if trial == 0:
            naive = mean_figure(shared.tolist())
            assert honest.high - honest.low > 1.5 * (naive.high - naive.low)
    assert 0.89 < hits / 200 < 0.99 and 0.88 < grouped / 200 < 0.99


def test_pairing_removes_what_items_share() -> None:
    hard = draw(60, seed=0) * 0.3
    ours = hard + 0.02 + 0.01 * draw(60, seed=1)
    rows = make_rows({
        "base": Measured({"acc": hard.tolist()}), "tuned": Measured({"acc": ours.tolist()}),
    })  # fmt: skip
    found = rows[1].differences["acc"]
    assert found.value == pytest.approx(float((ours - hard).mean())) and found.n == 60
    assert not found.covers_zero
    own = rows[1].figures["acc"]
    assert found.high - found.low < 0.1 * (own.high - own.low)
    assert not rows[0].differences and rows[0].samples["acc"] == tuple(hard.tolist())
    shuffled = make_rows({
        "base": Measured({"acc": hard.flip(0).tolist()}), "tuned": Measured({"acc": ours.tolist()}),
    })  # fmt: skip
    assert shuffled[1].differences["acc"].covers_zero


def test_a_pooled_difference_is_paired_too() -> None:
    whole = torch.randint(50, 500, (40, 1), generator=torch.Generator().manual_seed(0)).double()
    share = torch.rand(40, 1, generator=torch.Generator().manual_seed(1)).double()
    rows = make_rows({
        name: Measured(pooled={"acc": Pooled(torch.cat([whole * (share * 0.8 + plus), whole], 1),
                                             ratio)})
        for name, plus in (("base", 0.0), ("tuned", 0.1))
    })  # fmt: skip
    found = rows[1].differences["acc"]
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_mean_is_the_pooled_figure_of_its_items() -> None:
    values = draw(30, seed=3)
    sums = torch.stack([values, torch.ones(30, dtype=torch.float64)], dim=1)
    (row,) = make_rows({"m": Measured({"a": values.tolist()}, {"b": Pooled(sums, ratio)})})
    assert row.figures["a"] == row.figures["b"]
    (kept,) = make_rows({"m": Measured({"a": values.tolist()})}, keep_samples=False)
    assert not kept.samples and kept.figures["a"] == row.figures["a"]


def test_items_that_one_model_could_not_score_count_for_none() -> None:
    nan = math.nan
    rows = make_rows({
        "base": Measured({"acc": [0.0, 5.0, 2.0, nan]}),
        "tuned": Measured({"acc": [1.0, nan, 4.0, 9.0]}),
    })  # fmt: skip
    assert (rows[0].figures["acc"].value, rows[1].figures["acc"].value) == (1.0, 2.5)
    assert rows[1].differences["acc"].value == 1.5 and rows[1].differences["acc"].n == 2
    assert math.isnan(rows[1].samples["acc"][1]), "but the report says which"
    gone = torch.full((2, 2), nan, dtype=torch.float64)
    gone[0] = torch.tensor([1.0, 2.0])
    (row,) = make_rows({"base": Measured(pooled={"x": Pooled(gone, ratio)})})
    assert row.figures["x"].n == 1 and row.figures["x"].value == 0.5


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.5, math.nan]])
def test_fewer_than_two_items_have_no_interval(values: list[float]) -> None:
    figure = mean_figure(values)
    known = [v for v in values if not math.isnan(v)]
    assert figure.n == len(known) and not figure.has_interval and figure.covers_zero
    assert figure.value == known[0] if known else math.isnan(figure.value)


def test_one_group_has_no_interval() -> None:
    values = [0.1, 0.2, 0.3, 0.4]
    assert not mean_figure(values, groups=[7, 7, 7, 7]).has_interval
    single = mean_figure(values, groups=[4, 3, 2, 1])
    assert (single.value, single.n) == (0.25, 4)
    assert single.has_interval, "groups of one are items"


def test_few_groups_have_no_interval_however_many_their_items() -> None:
    values = [0.1, 0.3] * 60
    assert not mean_figure(values, groups=[i // 24 for i in range(120)]).has_interval
    assert not mean_figure([*values, math.nan], groups=[i // 24 for i in range(121)]).has_interval
    labels = [i // 20 for i in range(120)]
    assert mean_figure(values, groups=labels).has_interval
    by_groups = mean_figure([float(label) for label in labels], groups=labels)
    assert (by_groups.low, by_groups.high) == mean_bounds(range(6))


def mean_bounds(values: range) -> object:
    means = torch.tensor([sum(p) / 6 for p in itertools.product(values, repeat=6)]).double()
    ends = torch.quantile(means, torch.tensor([0.025, 0.975]).double())
    return pytest.approx(ends.tolist(), abs=0.1)


def test_groups_of_different_sizes_weigh_by_their_items() -> None:
    # The large group is drawn k ~ Binomial(6, 1/6) times, which makes the mean 3 k / (2 k + 6).
    figure = mean_figure([1.0] * 3 + [0.0] * 5, groups=[0, 0, 0, 1, 2, 3, 4, 5])
    assert figure.value == 0.375 and (figure.low, figure.high) == (0.0, 0.75)


def test_seeded_and_chunked_draws_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    values = draw(30, seed=2).tolist()
    first = mean_figure(values, seed=1)
    assert first == mean_figure(values, seed=1) != mean_figure(values, seed=2)
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 900)
    chunked = mean_figure(values, seed=1)
    assert (chunked.low, chunked.high) == pytest.approx((first.low, first.high), abs=0.03)


def test_the_reference_is_base_or_else_the_first() -> None:
    def rows(*names: str) -> list[set[str]]:
        made = make_rows({name: Measured({"a": [1.0, 2.0]}) for name in names})
        return [set(row.differences) for row in made]

    assert rows("tuned", "base") == [{"a"}, set()]
    assert rows("tuned", "sum") == [set(), {"a"}]
    assert make_rows({}) == ()


def test_models_that_measured_other_things_are_refused() -> None:
    for other in (Measured({"b": [1.0, 2.0]}), Measured({"a": [1.0]})):
        with pytest.raises(ValueError, match=r"[ab]: models"):
            make_rows({"base": Measured({"a": [1.0, 2.0]}), "tuned": other})


def test_every_metric_is_resampled_as_if_it_were_alone() -> None:
    nan = math.nan
    columns = {
        "whole": [0.1, 0.5, 0.3, 0.9, 0.2], "part": [nan, 0.5, nan, 0.7, 0.1],
        "also": [0.4, 0.1, 0.8, 0.2, 0.6],
    }  # fmt: skip
    other = {name: [v * v for v in column] for name, column in columns.items()}
    rows = make_rows({"base": Measured(columns), "tuned": Measured(other)})
    assert [list(row.figures) for row in rows] == [list(columns)] * 2
    assert list(rows[1].differences) == list(columns)
    for name, column in columns.items():
        alone = make_rows(
            {"base": Measured({name: column}), "tuned": Measured({name: other[name]})}
        )
        for row, one in zip(rows, alone, strict=True):
            assert row.figures[name] == one.figures[name]
            assert row.differences.get(name) == one.differences.get(name)


def test_covers_zero() -> None:
    assert Figure(0.5, 9, -0.1, 0.2).covers_zero and Figure(0.5, 9).covers_zero
    assert not Figure(0.5, 9, 0.1, 0.2).covers_zero and not Figure(0.5, 9, -0.2, -0.1).covers_zero
