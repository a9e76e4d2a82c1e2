"""The point that ``--method similarity`` starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fit3d_cli.errors import SettingsError


@dataclass(frozen=True)
class Point:
    """A pixel of one picture.

    Attributes:
        index: Which picture.
        x: Pixels from the left edge of the stored picture; the centre of its first pixel is 0.
        y: Pixels from its top edge.
    """

    index: int
    x: float
    y: float

    def token(self, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
        """``(row, column)`` of the token that sees it.

        Args:
            size: ``(width, height)`` of the stored picture.
            grid: ``(h, w)`` of its token map.

        Raises:
            SettingsError: It lies outside.
        """
        width, height = size
        if not (0 <= self.x <= width - 1 and 0 <= self.y <= height - 1):
            raise SettingsError(
                f"{self.x:g},{self.y:g} lies outside a picture of {width}x{height} pixels",
                where="--point",
                hint=f"use X in 0..{width - 1} and Y in 0..{height - 1}",
            )
        row = int((self.y + 0.5) * grid[0] / height)
        column = int((self.x + 0.5) * grid[1] / width)
        return min(row, grid[0] - 1), min(column, grid[1] - 1)


def parse_point(text: str, names: Sequence[str]) -> Point:
    """``X,Y`` of the first picture, or ``IMAGE:X,Y``.

    Args:
        text: What the user wrote.
        names: Of the pictures; a file name, with or without its suffix, is enough.

    Raises:
        SettingsError: Not of this form, or no or several such pictures.
    """
    name, _, place = text.rpartition(":")
    words = place.split(",")
    try:
        x, y = (float(word) for word in words)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError
    except ValueError as error:
        raise SettingsError(
            "not a point" if text else "similarity to what?",
            where=f"--point {text}".rstrip(),
            hint="write --point X,Y in pixels of the first picture, or --point IMAGE:X,Y",
        ) from error
    return Point(_find(name, names) if name else 0, x, y)


def _find(name: str, names: Sequence[str]) -> int:
    """The only picture that is called so."""
    for same in (
        lambda known: known == name,
        lambda known: PurePosixPath(known).name == name,
        lambda known: PurePosixPath(known).stem == name,
    ):
        found = [index for index, known in enumerate(names) if same(known)]
        if len(found) == 1:
            return found[0]
        if found:
            raise SettingsError(
                f"{len(found)} pictures are called {name}", where="--point",
                hint=f"name one in full, e.g. {names[found[0]]}:X,Y",
            )  # fmt: skip
    raise SettingsError(
        f"no picture is called {name}", where="--point",
        hint=f"the first of {len(names)} is {names[0]}",
    )  # fmt: skip
