"""A leak is told from a table that doubles, and from noise."""

from __future__ import annotations

import gc
import random

import pytest

from tests.reliability.base import Outcome
from tests.reliability.soak import Watch, judged

ROUNDS = 1500


@pytest.mark.parametrize(
    ("leak", "step", "holds"),
    [(300, 0, True), (300, 4 << 20, True), (2048, 0, False), (300, 12 << 20, False)],
)
def test_what_counts_as_a_leak(leak: int, step: int, holds: bool) -> None:
    draw = random.Random(leak)
    watch = Watch(4, [])
    gc.unfreeze()
    watch._first = watch._now()
    watch._memory = [
        (300 << 20) + n * leak + (n > 700) * step + draw.randrange(100 << 10) for n in range(ROUNDS)
    ]
    found = watch.found()
    assert found["slope"] == pytest.approx(leak, abs=200)
    outcome = Outcome()
    judged(outcome, "lifts", {"error": "", "value": found | {"failed": []}})
    assert (not outcome.broken) == holds, outcome.broken


def test_few_rounds_are_one_stretch() -> None:
    watch = Watch(4, [])
    gc.unfreeze()
    for _ in range(4):
        watch.note()
    assert watch.found()["rounds"] == 3
