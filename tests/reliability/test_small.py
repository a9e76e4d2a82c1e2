"""Every check at its small size: what ``make reliability`` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.base import CannotRun, Trial, all_checks

SMALL = {name: check for name, check in all_checks().items() if check.small}


@pytest.mark.parametrize("name", SMALL)
def test_promise_holds(name: str, tmp_path: Path) -> None:
    try:
        outcome = SMALL[name].run(Trial(tmp_path))
    except CannotRun as lack:
        pytest.skip(str(lack))
    assert outcome.cases > 0
    assert not outcome.broken, "\n".join(outcome.broken[:20])
