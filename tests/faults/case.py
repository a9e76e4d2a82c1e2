"""A command line that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def nothing(root: Path) -> None:
    """The command line is wrong, not the files."""


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
        line: What is typed after ``fit3d``.
        names: What the message must name: file, option or setting; ``*``: what ``damage`` returns.
        says: Words of the message.
        code: Exit code.
        damage: What is done to the world before.
        kept: What may have been added: tokens and maps of good photos are cached by content,
            so they are right whatever happens later.
    """

    line: str
    names: str
    says: str = ""
    code: int = 2
    damage: Callable[[Path], object] = nothing
    kept: str = ""
