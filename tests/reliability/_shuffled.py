"""Runs command lines with directories listed in another order; a program of its own.

Its argument is a JSON object with ``here``, ``shuffle`` (a seed; 0 = as the disk lists them),
``umask``, ``lines``, the command lines, and ``plants``: for each line, what of its surroundings
gets into the archives that it makes (see ``PLANTS``), or nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


def umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


PLANTS: dict[str, Callable[[], object]] = {
    "hash seed": lambda: hash("fit3d"),
    "order of a directory": lambda: list(Path(os.sep).iterdir()),
    "directory": os.getcwd,
    "time zone": lambda: time.localtime(0).tm_hour,
    "locale": lambda: os.environ.get("LC_ALL"),
    "umask": umask,
}


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


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the settings that an archive remembers depend on what should not matter."""
    from fit3d_cli.lifting import making

    recorded = making.recorded

    def spoilt(settings: Any) -> dict[str, Any]:
        told = {"planted": str(PLANTS[name]())} if name else {}
        return {**recorded(settings), **told}

    with mock.patch.object(making, "recorded", spoilt):
        yield


def run(given: dict[str, Any]) -> int:
    """Exit code of the first command line that fails, or 0."""
    os.chdir(given["here"])
    os.umask(given["umask"])
    import torch

    from fit3d_cli import app

    torch.set_num_threads(1)
    if given["shuffle"]:
        shuffle(given["shuffle"])
    plants = given.get("plants") or [""] * len(given["lines"])
    with contextlib.redirect_stdout(io.StringIO()):
        for line, plant in zip(given["lines"], plants, strict=True):
            with planted(plant):
                code = app.run(line)
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
