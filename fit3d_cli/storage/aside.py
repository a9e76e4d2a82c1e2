"""Files that cannot be believed any more."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from fit3d_cli.storage.faults import failure


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, so that a good one can take its place.

    It is not removed: a disk that returned nonsense once may return the file the next time.

    Args:
        path: A file, or whatever else has its name.

    Returns:
        ``<path>.damaged``, where an earlier one is replaced.

    Raises:
        StorageError: It cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
        # Another process may have done it meanwhile.
        with suppress(FileNotFoundError):
            path.rename(aside)
    except OSError as error:
        raise failure(aside, error) from error
    return aside
