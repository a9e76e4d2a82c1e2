"""A promise, the program that tries to break it, and what came out."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# In the order of the table.
MODULES = (
    "kills",
    "signals",
    "checkpoints",
    "ranks",
    "syscalls",
    "powerloss",
    "archives",
    "formats",
    "captures",
    "refusals",
    "isolation",
    "memory",
    "soak",
    "preflight",
    "backoff",
    "downloads",
    "sealed",
    "viewer",
    "kernels",
    "writers",
    "order",
)


@dataclass(frozen=True)
class Trial:
    """How large a run of a check is.

    Attributes:
        folder: An empty folder for it.
        whole: False for the small size, which has a few seconds.
        seed: Decides every random draw.
    """

    folder: Path
    whole: bool = False
    seed: int = 0

    def size(self, whole: int, small: int) -> int:
        """How many cases to try."""
        return whole if self.whole else small

    def draw(self, *salt: object) -> random.Random:
        """A generator that depends on the seed and ``salt`` alone."""
        return random.Random(repr((self.seed, *salt)))


@dataclass
class Outcome:
    """What a check measured.

    Attributes:
        cases: How many were tried.
        figure: What was measured, one line for the table: "200 kills, 0 files lost".
        broken: What did not hold, one line each; the promise holds if there is none.
    """

    cases: int = 0
    figure: str = ""
    broken: list[str] = field(default_factory=list)

    def require(self, good: bool, what: str) -> None:
        """Note a broken promise; goes on, so that one run shows all."""
        if not good:
            self.broken.append(what)


class CannotRun(Exception):
    """This machine lacks what a check needs; the message says what."""


@dataclass(frozen=True)
class Check:
    """A promise and its program.

    Attributes:
        name: What it is called on the command line, e.g. ``kills-lift``.
        area: Heading of the table.
        promise: What users may rely on, one sentence.
        goal: The figure that is aimed at.
        run: Tries to break it.
        small: Whether ``make test`` runs it, at the small size.
    """

    name: str
    area: str
    promise: str
    goal: str
    run: Callable[[Trial], Outcome]
    small: bool = True


CHECKS: dict[str, Check] = {}


def check(
    name: str, *, area: str, promise: str, goal: str, small: bool = True
) -> Callable[[Callable[[Trial], Outcome]], Callable[[Trial], Outcome]]:
    """Register a function as a check."""

    def register(run: Callable[[Trial], Outcome]) -> Callable[[Trial], Outcome]:
        assert name not in CHECKS, name
        CHECKS[name] = Check(name, area, promise, goal, run, small)
        return run

    return register


def all_checks() -> dict[str, Check]:
    """Every check, by name."""
    for module in MODULES:
        if Path(__file__).with_name(f"{module}.py").exists():
            importlib.import_module(f"tests.reliability.{module}")
    return CHECKS
