"""What the tests of writing share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fit3d_cli import storage

ROOT = str(Path(__file__).parents[2])
OLD = b"old content"
NEW = b"new content " * 1000


def names(directory: Path) -> list[str]:
    """What is there, hidden files too."""
    return sorted(file.name for file in directory.iterdir())


def fail_with(code: int) -> Callable[..., Any]:
    """Stands in for a system call that fails."""

    def call(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


def leftover(directory: Path, name: str, host: str = "", pid: int = 0, kind: str = "") -> Path:
    """A name that a process has given to something temporary."""
    host, pid = host or storage.faults.host_name(), pid or os.getpid()
    return directory / f".{name}.{host}.{pid}.01234567.{kind or 'f3dtmp'}"
