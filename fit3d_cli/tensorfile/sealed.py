"""Tensor files that notice a flipped bit: caches and checkpoints, which are read to be believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile.files import bytes_of, read_tensors, write_tensors
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
    tensors, metadata = read_tensors(path, limits=MODEL_LIMITS)
    seal = metadata.pop(_SEAL, None)
    if seal != _digest(tensors, metadata):
        raise ArchiveError("the content does not match its digest", where=path, hint="delete it")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
