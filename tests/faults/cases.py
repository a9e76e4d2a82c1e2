"""Every wrong input that has a name; ``tests/reliability/refusals.py`` counts and times them."""

from __future__ import annotations

from tests.faults import cases_archives, cases_captures, cases_input
from tests.faults.case import Case

CASES: dict[str, Case] = {
    **cases_input.CASES, **cases_captures.CASES, **cases_archives.CASES,
}  # fmt: skip
