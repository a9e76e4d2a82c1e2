"""Photos without their cameras: what a user names to have it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli.capture.base import READERS
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Photos:
    """Pictures to look at.

    Attributes:
        paths: Files.
        names: What to call them.
        groups: The scene of each, or empty when all belong together.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...] = ()

    def spread(self, count: int) -> Photos:
        """At most ``count`` of them, evenly spread."""
        return self.pick(spread_over(len(self.paths), count))

    def pick(self, indices: Sequence[int]) -> Photos:
        """Some of them, in the given order."""
        return Photos(
            tuple(self.paths[i] for i in indices),
            tuple(self.names[i] for i in indices),
            tuple(self.groups[i] for i in indices) if self.groups else (),
        )


def spread_over(total: int, count: int) -> list[int]:
    """At most ``count`` of ``total`` indices, evenly spread, in order."""
    if total <= count:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def photos_of_path(path: Path) -> Photos:
    """A picture, the photos of a capture, or all pictures of a folder, by name.

    Raises:
        ImageError: No such file, or no picture in the folder.
        CaptureError: A capture that cannot be read.
    """
    if path.is_file():
        return Photos((path,), (path.name,))
    if not path.is_dir():
        raise ImageError("no such picture or folder", where=path, hint="check the path")
    if any(entry.sniff(path) for _, entry in READERS.items()):
        views = read_capture(path).views
        return Photos(tuple(v.image_path for v in views), tuple(v.name for v in views))
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        inside = sorted(f.name for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
        more = f"; or name one of its folders, e.g. {path / inside[0]}" if inside else ""
        raise ImageError(
            "no picture in this folder",
            where=path,
            hint=f"expected {', '.join(SUFFIXES)} files{more}",
        )
    return Photos(tuple(files), tuple(f.name for f in files))
