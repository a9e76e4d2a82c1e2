from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fit3d_cli.comparing.intervals import paired_bootstrap


def test_two_images_by_hand() -> None:
    # Differences 0 and 1: means of resamples are 0, 1/2, 1 with chance 1/4, 1/2, 1/4.
    interval = paired_bootstrap([1.0, 3.0], [1.0, 2.0])
    assert interval is not None
    assert (interval.difference, interval.low, interval.high) == (0.5, 0.0, 1.0)
    assert interval.count == 2 and interval.covers_zero
    narrow = paired_bootstrap([1.0, 3.0], [1.0, 2.0], level=0.4)
    assert narrow is not None and (narrow.low, narrow.high) == (0.5, 0.5)


def test_against_every_possible_resample() -> None:
    ours, theirs = np.array([0.9, 0.4, 0.7, 0.1, 0.6]), np.array([0.5, 0.5, 0.1, 0.3, 0.35])
    differences = ours - theirs
    means = [differences[list(pick)].mean() for pick in itertools.product(range(5), repeat=5)]
    low, high = np.quantile(means, [0.025, 0.975])
    interval = paired_bootstrap(ours.tolist(), theirs.tolist(), draws=40_000)
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=0.01)
    assert interval.high == pytest.approx(high, abs=0.01)
    assert interval.difference == pytest.approx(differences.mean())


def test_coverage_is_near_nominal() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        theirs = rng.uniform(0, 1, 40)
        interval = paired_bootstrap(
            (theirs + rng.normal(0.1, 0.2, 40)).tolist(), theirs.tolist(), draws=400
        )
        assert interval is not None
        hits += interval.low <= 0.1 <= interval.high
    assert 0.90 < hits / 400 < 0.98


def test_pairing_removes_what_images_share() -> None:
    hard = np.random.default_rng(1).uniform(0, 1, 50)
    interval = paired_bootstrap((hard + 0.01).tolist(), hard.tolist())
    assert interval is not None
    assert interval.low == pytest.approx(0.01) and interval.high == pytest.approx(0.01)
    shuffled = paired_bootstrap((hard[::-1] + 0.01).tolist(), hard.tolist())
    assert shuffled is not None and shuffled.covers_zero


def test_seeded_and_chunked_draws_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = np.random.default_rng(2).uniform(0, 1, (2, 30)).tolist()
    first = paired_bootstrap(ours, theirs, seed=1)
    assert first == paired_bootstrap(ours, theirs, seed=1)
    assert first != paired_bootstrap(ours, theirs, seed=2)
    monkeypatch.setattr("fit3d_cli.comparing.intervals._CHUNK_VALUES", 900)
    chunked = paired_bootstrap(ours, theirs, seed=1)
    assert chunked is not None and first is not None
    assert chunked.low == pytest.approx(first.low, abs=0.01)


def test_images_that_one_model_could_not_score_are_left_out() -> None:
    interval = paired_bootstrap([1.0, math.nan, 3.0, 2.0], [0.0, 5.0, math.inf, 1.0])
    assert interval is not None and interval.count == 2 and interval.difference == 1.0
    assert paired_bootstrap([1.0, math.nan], [0.0, 0.0]) is None


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="level"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0], level=1.5)
