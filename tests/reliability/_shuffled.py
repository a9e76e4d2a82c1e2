"""Runs command lines with directories listed in another order; a program of its own.

Its argument is a JSON object with ``here``, ``shuffle`` (a seed; 0 = as the disk lists them),
``umask`` and ``lines``, the command lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from collections.abc import Iterator
from typing import Any


class Shuffled:
    """What ``os.scandir`` returns, in another order."""

    def __init__(self, entries: Any, draw: random.Random) -> None:
        with entries:
            found = sorted(entries, key=lambda entry: entry.name)
        draw.shuffle(found)
        self.entries = iter(found)

    def __enter__(self) -> Shuffled:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self.entries

    def __next__(self) -> Any:
        return next(self.entries)

    def close(self) -> None:
        self.entries = iter(())


def shuffle(seed: int) -> None:
    draw = random.Random(seed)
    scandir, listdir = os.scandir, os.listdir

    def listed(path: Any = ".") -> list[Any]:
        names = sorted(listdir(path))
        draw.shuffle(names)
        return names

    os.listdir = listed
    os.scandir = lambda path=".": Shuffled(scandir(path), draw)


def run(given: dict[str, Any]) -> int:
    """Exit code of the first command line that fails, or 0."""
    os.chdir(given["here"])
    os.umask(given["umask"])
    import torch

    from fit3d_cli import app

    torch.set_num_threads(1)
    if given["shuffle"]:
        shuffle(given["shuffle"])
    with contextlib.redirect_stdout(io.StringIO()):
        return next(filter(None, map(app.run, given["lines"])), 0)


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
