"""Files that can be made again: made under a lock, verified before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from fit3d_cli import storage
from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile import check_sealed, write_sealed

Made = tuple[Mapping[str, Tensor], dict[str, str]]


def ensure(path: Path, key: str, make: Callable[[], Made]) -> dict[str, str]:
    """Make a sealed file unless it is there and whole.

    Args:
        path: The file.
        key: Says what the file holds, so that a moved or outdated one is not believed.
        make: Computes the tensors and further metadata.

    Returns:
        The file's metadata.

    Raises:
        StorageError: The disk refused.
    """
    found = _whole(path, key)
    if found is None:
        # Several processes of one training may want it: the first makes it, the others wait.
        with storage.locked(path, blocking=True):
            found = _whole(path, key)
            if found is None:
                tensors, metadata = make()
                found = {**metadata, "key": key}
                write_sealed(path, tensors, found)
    return found


def _whole(path: Path, key: str) -> dict[str, str] | None:
    if not path.is_file():
        return None
    try:
        metadata = check_sealed(path)
    except ArchiveError:
        return None
    return metadata if metadata.get("key") == key else None
