"""How a long-running stage tells how far it is; the command line turns it into a bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Attributes:
        stage: What is being done, e.g. ``"kitchen: geometry"``; a new name starts a new bar.
        done: Finished units, 0 to ``total``.
        total: Units of the stage; 0 when unknown.
        note: Figures worth watching, e.g. ``"PSNR 21.3 dB"``.
        item: Which of several inputs it is about and how many there are; (0, 0) when there is
            one.
        place: Which stage of how many it is; (0, 0) when unknown.
    """

    stage: str
    done: int
    total: int
    note: str = ""
    item: tuple[int, int] = (0, 0)
    place: tuple[int, int] = (0, 0)


OnEvent = Callable[[Progress], None]


def ignore(event: Progress) -> None:
    """The listener of a caller who does not watch."""


def one_of(on_event: OnEvent, number: int, count: int) -> OnEvent:
    """A listener for input ``number`` of ``count``, counted from 1; one alone is not counted."""
    if count < 2:
        return on_event
    return lambda event: on_event(replace(event, item=(number, count)))


def in_order(on_event: OnEvent, stages: Sequence[str]) -> OnEvent:
    """A listener that says which stage of how many an event is of.

    Args:
        on_event: Who wants to know.
        stages: How the stages' names end, in the order in which they come. A stage that is not
            among them counts as part of the one before it.
    """
    if not stages:
        return on_event
    at = 0

    def listen(event: Progress) -> None:
        nonlocal at
        found = [i for i, ending in enumerate(stages, 1) if event.stage.endswith(ending)]
        at = found[0] if found else at
        on_event(replace(event, place=(at, len(stages))) if at else event)

    return listen
