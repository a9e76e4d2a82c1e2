"""Half as much at once after each out-of-memory; everything else passes through."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch

from fit3d_cli import backoff
from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import MemoryFault


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_told", set())


def room_for(most: int, seen: list[int]) -> object:
    """Doubles numbers, a limited number of them at once."""

    def work(piece: Sequence[int]) -> list[int]:
        seen.append(len(piece))
        if len(piece) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.")
        return [2 * number for number in piece]

    return work


def test_what_was_learnt_is_kept_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    backing = Backoff("lift.backbone.batch", 8)
    with caplog.at_level(logging.WARNING):
        assert backing.map(room_for(3, seen), range(10)) == [2 * i for i in range(10)]  # type: ignore[arg-type]
        assert backing.map(room_for(3, seen), range(2)) == [0, 2]  # type: ignore[arg-type]
        Backoff("lift.backbone.batch", 8).map(room_for(4, []), range(8))  # type: ignore[arg-type]
    assert seen == [8, 4, 2, 2, 2, 2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: lift.backbone.batch 8 -> 4", "out of memory: lift.backbone.batch 4 -> 2",
    ]  # fmt: skip


def test_three_halvings_then_need_have_and_remedy() -> None:
    seen: list[int] = []
    with pytest.raises(
        MemoryFault, match=r"with 2 at once: 1\.\d GB more are needed, .* free"
    ) as no:
        Backoff("probe.backbone.batch", 16).map(room_for(0, seen), range(16))  # type: ignore[arg-type]
    assert seen == [16, 8, 4, 2]
    assert no.value.where == "probe.backbone.batch" and "less than 2" in no.value.hint
    assert no.value.exit_code == 3
    with pytest.raises(MemoryFault, match="with 1 at once") as alone:
        Backoff("x", 1).map(room_for(0, []), [7])  # type: ignore[arg-type]
    assert "less than" not in alone.value.hint


@pytest.mark.parametrize(
    "error",
    [ValueError("out of memory"), RuntimeError("shapes do not match"), KeyboardInterrupt()],
)
def test_other_failures_pass_through(error: BaseException) -> None:
    def work(_: object) -> list[int]:
        raise error

    backing = Backoff("x", 8)
    with pytest.raises(type(error)) as raised:
        backing.map(work, range(8))
    assert raised.value is error and backing.size == 8


def test_an_error_that_says_more_is_kept() -> None:
    told = MemoryFault("one view needs 3 GiB", where="an array", hint="use fewer Gaussians")
    tried: list[int] = []

    def work(size: int) -> int:
        tried.append(size)
        raise told

    with pytest.raises(MemoryFault) as raised:
        Backoff("channels", 40).attempt(work)
    assert raised.value is told and tried == [40, 20, 10, 5]
    assert Backoff("channels", 40).attempt(lambda size: size) == 40


def test_the_failed_attempt_is_let_go_before_the_next() -> None:
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []

    def work(piece: Sequence[int]) -> list[int]:
        assert all(held() is None for held in alive)
        large = torch.zeros(len(piece))
        alive.append(weakref.ref(large))
        if len(piece) > 1:
            raise MemoryError
        return list(piece)

    assert Backoff("x", 4).map(work, range(2)) == [0, 1]
    assert len(alive) == 3
