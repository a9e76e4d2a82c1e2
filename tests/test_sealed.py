"""Sealed tensor files: a round trip, and every damage noticed."""

from pathlib import Path

import pytest
import torch

from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile import check_sealed, read_sealed, write_sealed, write_tensors


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b.c": torch.tensor([1, 2]),
        "n": torch.zeros(0),
    }
    write_sealed(path, tensors, {"step": "7"})
    read, metadata = read_sealed(path)
    assert metadata == {"step": "7"} == check_sealed(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_sealed(path, {"a": torch.arange(4.0)}, {"step": "7"})
    whole = path.read_bytes()
    changes = [(at, whole[at] ^ 4) for at in range(len(whole))]
    # White space that is other white space is a change too.
    changes += [(at, new) for at in range(len(whole)) if whole[at] == ord(" ") for new in b"\t\n\r"]
    for position, new in changes:
        path.write_bytes(whole[:position] + bytes([new]) + whole[position + 1 :])
        for read in (read_sealed, check_sealed):
            with pytest.raises(ArchiveError):
                read(path)


def test_an_unsealed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"a": torch.zeros(3)}, {})
    for read in (read_sealed, check_sealed):
        with pytest.raises(ArchiveError, match="digest"):
            read(path)
