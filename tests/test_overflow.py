"""Tensors that are put away come back as they were, and nothing stays behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from fit3d_cli.errors import StorageError
from fit3d_cli.tensorfile import read_sealed, write_sealed
from fit3d_cli.tensorfile.overflow import KeptList, KeptTable, Overflow

SOME = [
    torch.arange(7, dtype=torch.int32),
    torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0)).half(),
    torch.tensor([[True, False], [False, True]]),
    torch.zeros(0, 4),
    torch.tensor(3.5, dtype=torch.float64),
    torch.arange(24.0).view(4, 6).T,  # not contiguous
]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("budget", [0, 60, 1 << 20])
def test_what_is_put_away_comes_back(tmp_path: Path, budget: int) -> None:
    gc.collect()
    before = descriptors()
    overflow = Overflow(tmp_path / "deep", budget=budget)
    kept = [overflow.keep(tensor) for tensor in SOME]
    for tensor, one in zip(SOME, kept, strict=True):
        assert one.get().dtype == tensor.dtype and torch.equal(one.get(), tensor)
        assert one.shape == tuple(tensor.shape)
    whole = sum(tensor.numel() * tensor.element_size() for tensor in SOME)
    assert overflow.spilled == 0 if budget > whole else whole - budget <= overflow.spilled <= whole
    assert not list(tmp_path.glob("deep/*")), "the file has a name"
    held = KeptList[torch.Tensor]([*kept, None])
    del overflow, kept, one
    assert torch.equal(held[1], SOME[1]) and held[-1] is None and len(held[1:3]) == 2
    del held
    gc.collect()
    assert descriptors() == before


def test_a_tensor_is_replaced_by_its_like_only(tmp_path: Path) -> None:
    for budget in (0, 1 << 20):
        overflow = Overflow(tmp_path, budget=budget)
        first, second = overflow.keep(SOME[0]), overflow.keep(SOME[0])
        first.set(SOME[0] + 1)
        assert torch.equal(first.get(), SOME[0] + 1) and torch.equal(second.get(), SOME[0])
        with pytest.raises(ValueError, match="int32"):
            first.set(SOME[0].long())


def test_a_table_is_written_as_a_dictionary_is(tmp_path: Path) -> None:
    named = {f"t{number}": tensor for number, tensor in enumerate(SOME)}
    overflow = Overflow(tmp_path)
    table = KeptTable({"t0": SOME[0]} | {n: overflow.keep(t) for n, t in list(named.items())[1:]})
    write_sealed(tmp_path / "one", named, {"key": "x"})
    write_sealed(tmp_path / "two", table, {"key": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert torch.equal(read_sealed(tmp_path / "two")[0]["t5"], SOME[5])


def test_a_full_disk_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    overflow = Overflow(tmp_path, hint="do something")
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        overflow.keep(SOME[0])
    assert caught.value.hint == "do something" and str(tmp_path) in str(caught.value)
