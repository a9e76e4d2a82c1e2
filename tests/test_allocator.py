"""Freed memory goes back when the process has grown, and not at every turn."""

from __future__ import annotations

import pytest
import torch

from fit3d_cli import allocator
from fit3d_cli.tensorfile.overflow import Overflow

needs_trim = pytest.mark.skipif(
    allocator._trim() is None, reason="this C library keeps nothing that could be given back"
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per time that memory was given back."""
    found: list[int] = []
    monkeypatch.setattr(allocator, "_trim", lambda: found.append)
    monkeypatch.setattr(allocator, "_low", 1 << 30)
    return found


def grown(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
    """Let the process be as large as told, one size after the other."""
    told = iter(sizes)
    monkeypatch.setattr(allocator, "_held", lambda: next(told) << 20)


def test_only_growth_counts(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    grown(monkeypatch, 1000, 1014, 900, 916, 910, 920, 924)
    counts = []
    for _ in range(6):  # at 916 it gives back and looks once more
        allocator.settle()
        counts.append(len(calls))
    assert counts == [0, 0, 0, 1, 1, 1]
    assert allocator._low == 910 << 20


def test_a_small_process_is_not_troubled(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    monkeypatch.setattr(allocator, "_low", 20 << 20)
    grown(monkeypatch, 27, 28, 29, 24)
    for _ in range(3):
        allocator.settle()
    assert len(calls) == 1 and allocator._low == 24 << 20


def test_without_such_a_function_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_trim", lambda: None)
    monkeypatch.setattr(allocator, "_held", lambda: 1 / 0)
    allocator.settle()
    allocator.give_back()


@needs_trim
def test_the_size_is_that_of_this_process() -> None:
    before = allocator._held()
    held = torch.ones(16 << 20)
    assert 60 << 20 < allocator._held() - before < 80 << 20
    del held
    allocator.give_back()
    assert allocator._held() - before < 16 << 20


@needs_trim
def test_what_overflows_asks_for_it(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    monkeypatch.setattr(allocator, "_low", 0)
    overflow = Overflow(budget=1000)
    overflow.keep(torch.zeros(100))
    assert calls == []
    overflow.keep(torch.zeros(1000))
    assert calls == [0]
