"""Steps come in order, whoever loads them, and never more ahead than there are threads."""

from __future__ import annotations

import threading

import pytest
import torch

from fit3d_cli.errors import ImageError
from fit3d_cli.finetuning.prefetch import Prefetcher, Step


def numbered(number: int) -> Step:
    return Step((), torch.tensor([float(number)]))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_threads_gives_the_same_steps(workers: int) -> None:
    loaded: list[int] = []
    names: set[str] = set()
    most = 0

    def load(number: int) -> Step:
        loaded.append(number)
        names.add(threading.current_thread().name)
        return numbered(number)

    with Prefetcher(load, workers) as samples:
        for number in range(8):
            step = samples.take(number)
            assert step.weights.item() == number
            samples.start(range(number + 1, 8))
            most = max(most, len(loaded) - number - 1)
    assert sorted(loaded) == list(range(8)), "each is read once"
    assert most <= workers
    expected = "samples" if workers else threading.current_thread().name
    assert all(name.startswith(expected) for name in names)
    assert not [t for t in threading.enumerate() if t.name.startswith("samples")]


def test_threads_read_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def load(number: int) -> Step:
        if number:
            meeting.wait()
        return numbered(number)

    with Prefetcher(load, 2) as samples:
        samples.take(0)
        samples.start([1, 2, 3])
        assert [samples.take(n).weights.item() for n in (1, 2)] == [1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_told_when_it_is_needed(
    workers: int,
) -> None:
    def load(number: int) -> Step:
        if number == 2:
            raise ImageError("gone", where="photo.png")
        return numbered(number)

    with Prefetcher(load, workers) as samples:
        samples.take(0)
        samples.start([1, 2])
        samples.take(1)
        with pytest.raises(ImageError, match="gone"):
            samples.take(2)
