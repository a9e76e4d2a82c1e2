"""The world of ``world.py``, made once; every test leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.ground import Ground
from tests.faults.world import write_world


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("world")
    return Ground(write_world(folder / "w"), folder / "spare")


@pytest.fixture
def world(ground: Ground) -> Iterator[Path]:
    """The world as the working directory, to be damaged; mended afterwards."""
    with ground.entered() as root:
        yield root


@pytest.fixture
def refused(ground: Ground) -> Callable[..., None]:
    """Run a command line that must be refused: the contract of every failure."""

    def check(argv: list[str], code: int, culprit: str, says: str = "", kept: str = "") -> None:
        assert not ground.refused(argv, code, culprit, says, kept).broken

    return check
