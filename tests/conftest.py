"""Fixtures that any test may use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One torch thread: the test workers share the machine, and sums keep their order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real captures; the test is skipped where there is none."""
    folder = Path(os.environ.get("FIT3D_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real captures: set FIT3D_DATA")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace that does not exist yet."""
    return tmp_path / "fit3d-out"


@pytest.fixture(scope="session")
def trees() -> ModuleType:
    """``datasets/trees.py``: tiny datasets in their published layouts."""
    spec = importlib.util.spec_from_file_location("trees", ROOT / "tests" / "datasets" / "trees.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
