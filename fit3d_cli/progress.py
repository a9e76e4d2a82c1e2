"""How a long-running stage tells how far it is; the command line turns it into a bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Attributes:
        stage: What is being done, e.g. ``"kitchen: geometry"``; a new name starts a new bar.
        done: Finished units, 0 to ``total``.
        total: Units of the stage; 0 when unknown.
        note: Figures worth watching, e.g. ``"PSNR 21.3 dB"``.
    """

    stage: str
    done: int
    total: int
    note: str = ""


OnEvent = Callable[[Progress], None]


def ignore(event: Progress) -> None:
    """The listener of a caller who does not watch."""
