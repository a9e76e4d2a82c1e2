"""The hunts find what is planted: an untyped error, a crash, a hang, greed, a forgotten check."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli.archive import reading, schema
from fit3d_cli.errors import ArchiveError
from tests.reliability import _hunt
from tests.reliability._hunt import Bag, Prey, alone, hunt
from tests.reliability.archives import archive_flips, archive_prey
from tests.reliability.base import Trial


def shot(folder: Path, read: Callable[[bytes], Any], cases: int = 60, **changes: Any) -> Bag:
    """What a hunt says of a reader, over files of which the last says so."""

    def make(case: int) -> tuple[str, bytes]:
        return "a", b"bad" if case == cases - 1 else b"good"

    def opened(case: int, path: Path) -> Any:
        return read(path.read_bytes())

    prey = Prey(folder, make, opened, lambda case, content, value: "", ArchiveError, ("a",))
    for key, value in changes.items():
        setattr(prey, key, value)
    return hunt(prey, range(cases))


def test_a_good_reader_passes(tmp_path: Path) -> None:
    bag = shot(tmp_path, len)
    assert (bag.cases, bag.accepted, bag.broken) == (60, 60, [])


def on_bad(act: Callable[[], object]) -> Callable[[bytes], object]:
    return lambda content: act() if content == b"bad" else None


def spin() -> None:
    began = time.process_time()
    while time.process_time() - began < 0.15:
        pass


def fails(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


PLANTED: dict[str, tuple[Callable[[], object], str]] = {
    "an untyped error": (fails(KeyError("a")), "case 59: KeyError"),
    "an error without a remedy": (fails(ArchiveError("damaged", where="a")), "no line"),
    "a crash": (lambda: ctypes.string_at(0), "case 59: the process ended with -11"),
    "something slow": (spin, "ms for 3 bytes"),
    "greed": (lambda: len(bytearray(b"x") * (100 << 20)), "memory grew by"),
    "more greed": (lambda: len(bytearray(600 << 20)), "MemoryError"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found(tmp_path: Path, what: str) -> None:
    act, words = PLANTED[what]
    found = shot(tmp_path, on_bad(act)).broken
    assert len(found) == 1 and words in found[0], found


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hunt, "_HANG_SECONDS", 0.5)
    found = shot(tmp_path, on_bad(lambda: time.sleep(60))).broken
    assert found == ["case 59: the process ended with -9"]


def test_what_happens_alone_is_told() -> None:
    assert alone(lambda: {"a": [1]}) == {"a": [1]}
    for act, words in ((fails(ValueError("why")), "ValueError: why"),
                       (lambda: ctypes.string_at(0), "ended with -11")):  # fmt: skip
        with pytest.raises(RuntimeError, match=words):
            alone(act)


def test_a_forgotten_check_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "check_numbers", lambda *args, **options: None)
    found = hunt(archive_prey(Trial(tmp_path), 10**9), range(800)).broken
    assert any("not finite" in line or "out of range" in line for line in found), found


def test_a_forgotten_type_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_get", lambda table, key, kind: table[key])
    found = hunt(archive_prey(Trial(tmp_path), 10**9), range(800)).broken
    assert any("AttributeError" in line for line in found), found


def test_a_forgotten_digest_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = reading._read
    monkeypatch.setattr(reading, "_read", lambda *args, **options: original(
        *args, **(options | {"check": False})))  # fmt: skip
    trial = Trial(tmp_path)
    monkeypatch.setattr(Trial, "size", lambda self, whole, small: 997)
    found = archive_flips(trial).broken
    assert found and all("changed by" in line for line in found)
