"""Blending weights within a bounded memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_cli.errors import StorageError
from fit3d_cli.lifting import store as module
from fit3d_cli.lifting.solve import conjugate_gradients, weighted_average
from fit3d_cli.lifting.stacked import Stacked, StoredBlocks, within
from fit3d_cli.lifting.store import WeightStore, stack

Make = Callable[..., Any]


def filled(problem: Any, budget: int, folder: Path, apart: tuple[int, ...] = ()) -> WeightStore:
    store = WeightStore(budget=budget, folder=folder)
    count = len(problem.weights)
    for index in [i for i in range(count) if i not in apart]:
        store.put(index, problem.weights[index])
    store.cut()
    for index in apart:
        store.put(index, problem.weights[index])
    store.cut()
    return store


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two views of 4x5 per block."""
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 40)


def test_no_row_of_a_block_is_none_of_its_memory() -> None:
    """A pass over a thousand blocks must not keep them by empty views."""
    block = torch.ones(1000, 16)
    rows = block[within(None, 0, 1000)]
    assert rows.shape == (0, 16) and rows.untyped_storage().nbytes() == 0


def test_a_stack_is_the_views_one_below_the_other(problem: Any) -> None:
    whole = stack(problem.weights)
    x = torch.randn(12, 3)
    parts = torch.cat([view.apply(x) for view in problem.weights])
    assert torch.equal(whole.apply(x), parts)
    assert (whole.h, whole.w, whole.nnz) == (12, 5, sum(v.nnz for v in problem.weights))


@pytest.mark.parametrize("budget", [0, 3000, 1 << 30])
def test_what_comes_back_is_what_was_put(
    make_problem: Make, small_blocks: None, tmp_path: Path, budget: int
) -> None:
    problem = make_problem(views=7)
    store = filled(problem, budget, tmp_path, apart=(2, 5))
    assert store.members == [[0, 1], [3, 4], [6], [2, 5]]
    assert store.spilled == {0: 4, 3000: 3, 1 << 30: 0}[budget]
    assert len(store) == 7
    for view, kept in zip(problem.weights, store, strict=True):
        assert torch.equal(kept.row_offsets, view.row_offsets)
        assert torch.equal(kept.cols, view.cols) and torch.equal(kept.vals, view.vals)
    assert store[1:3][1].nnz == problem.weights[2].nnz
    assert list(tmp_path.iterdir()) == [], "the temporary file has no name"


def test_the_place_of_the_weights_changes_no_bit(
    make_problem: Make, small_blocks: None, tmp_path: Path
) -> None:
    problem = make_problem(views=7, dim=40)
    results = []
    for budget in (0, 3000, 1 << 30):
        store = filled(problem, budget, tmp_path)
        a = Stacked(StoredBlocks(store, range(7)))
        start = weighted_average(a, problem.codes)
        for kind in ("column", "row-sum", "jacobi"):
            x = conjugate_gradients(
                a, problem.codes, start.clone(), iterations=3, damping=0.1, preconditioner=kind
            )
            results.append(x)
    for once, again in zip(results[:3] * 2, results[3:], strict=True):
        assert torch.equal(once, again)
    # Nor does the way in which views are stacked.
    a = Stacked(problem.weights)
    start = weighted_average(a, problem.codes)
    x = conjugate_gradients(a, problem.codes, start, iterations=3, damping=0.1)
    assert torch.equal(x, results[0])


def test_blocks_without_wanted_views_are_left_out(
    make_problem: Make, small_blocks: None, tmp_path: Path
) -> None:
    store = filled(make_problem(views=6), 1 << 30, tmp_path)
    assert StoredBlocks(store, [0, 5]).views == [0, 1, 4, 5]
    assert Stacked(StoredBlocks(store, [2])).tokens == 40


def mapped_files() -> int:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sum("(deleted)" in line for line in lines)


def test_a_mapped_block_goes_when_it_is_dropped(
    make_problem: Make, small_blocks: None, tmp_path: Path
) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    before = mapped_files()
    store = filled(make_problem(views=6), 0, tmp_path)
    a = Stacked(StoredBlocks(store, range(6)))
    a.apply(torch.ones(12, 1))
    gc.collect()
    assert mapped_files() == before
    block = store.block(0)
    assert mapped_files() == before + 1
    del block


def test_a_full_disk_is_an_error_with_a_remedy(
    problem: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match=r"no room for blending weights.*lift\.memory"):
        filled(problem, 0, tmp_path / "nowhere")
    if not Path("/dev/full").exists():
        return
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda dir: full)
    with (
        Path("/dev/full").open("r+b", buffering=0) as full,
        pytest.raises(StorageError, match="No space left"),
    ):
        filled(problem, 0, tmp_path)
