"""The benchmarks are not installed: they are found from the repository's root."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.options import QUICK, Setup
from benchmarks.splat import Case


@pytest.fixture(scope="session")
def quick() -> Setup:
    """A small room, one thread."""
    return Setup(quick=True, threads=1, **QUICK)


@pytest.fixture(scope="session")
def case(quick: Setup) -> Case:
    """One view of it."""
    return Case(quick)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Options set torch's threads; the other tests run with what they found."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
