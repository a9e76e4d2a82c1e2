"""Tensor files that notice a flipped bit: caches and checkpoints, which are read to be believed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile.files import (
    TensorFile,
    bytes_of,
    open_tensors,
    write_tensors,
)
from fit3d_cli.tensorfile.header import MODEL_LIMITS

_SEAL = "sha256"


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors with a digest of their names, shapes, types and bytes in the metadata.

    Raises:
        StorageError: The file could not be written; a previous one is intact.
    """
    write_tensors(path, tensors, {**metadata, _SEAL: _digest(tensors, metadata)})


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what ``write_sealed`` wrote: the tensors and the metadata without the digest.

    Raises:
        ArchiveError: Malformed, or not what was written.
    """
    with open_tensors(path, limits=MODEL_LIMITS) as file:
        _require_spelling(file)
        metadata = dict(file.header.metadata)
        tensors = {name: file.read(name) for name in file.header.tensors}
    _require_seal(path, tensors, metadata)
    return tensors, metadata


def check_sealed(path: Path) -> dict[str, str]:
    """Verify what ``write_sealed`` wrote with one tensor in memory at a time.

    Returns:
        The metadata without the digest.

    Raises:
        ArchiveError: Malformed, or not what was written.
    """
    with open_tensors(path, limits=MODEL_LIMITS) as file:
        _require_spelling(file)
        metadata = dict(file.header.metadata)
        _require_seal(path, _Unread(file), metadata)
    return metadata


class _Unread(Mapping[str, Tensor]):
    """The tensors of an open file, read when they are asked for."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.header.tensors)

    def __len__(self) -> int:
        return len(self._file.header.tensors)


def _require_spelling(file: TensorFile) -> None:
    """A changed byte that is still white space would pass the digest."""
    if not file.header.canonical:
        raise ArchiveError("the header is not as it was written", where=file.path, hint="delete it")


def _require_seal(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Take the digest out of the metadata and compare."""
    if metadata.pop(_SEAL, None) != _digest(tensors, metadata):
        raise ArchiveError("the content does not match its digest", where=path, hint="delete it")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
