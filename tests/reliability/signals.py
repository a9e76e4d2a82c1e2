"""Ctrl-C and SIGTERM at random points: a quick end, nothing left, and the same result later."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.reliability._forks import Ended
from tests.reliability._ground import EVERY, SAVED, contents, differences, ground, temporaries
from tests.reliability.base import Outcome, Trial, check
from tests.reliability.kills import Chain, Tally

PROMPT = 5.0  # seconds from the signal to the end
AT_ONCE = 1.0  # seconds from the second signal
SHARE = 0.6  # of a whole run after which a signal comes at the latest
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass
class Heard(Tally):
    """Signals that were sent.

    Attributes:
        slowest: Longest time from a signal to the end, seconds.
        twice: How many were followed by a second one.
        quickest: Longest time from the second signal to the end, seconds.
    """

    slowest: float = 0.0
    twice: int = 0
    quickest: float = 0.0


class Interrupted(Chain):
    """A run that is interrupted over and over."""

    stopped = frozenset(ENDS.values())

    def once(
        self, workspace: Path, draw: random.Random, tally: Tally, out: Outcome, *, alive: bool
    ) -> Ended:
        """One run and its signal."""
        if alive:
            return self.place.run(self.verb, workspace)
        assert isinstance(tally, Heard)
        number, twice = draw.choice(list(ENDS)), draw.random() < 0.2
        group = draw.random() < 0.5  # as a terminal does
        running = self.place.start(self.verb, workspace)
        running.pause(draw.random() * SHARE * self.whole.seconds)
        running.send(number, group=group)
        if twice:
            running.pause(0.05 * draw.random())
            running.send(number, group=group)
        (ended,) = running.wait()
        if ended.code == 0:
            return ended  # it was faster
        where = f"{self.verb}, {number.name}{' twice' * twice}, signal {tally.kills}"
        out.require(ended.code == ENDS[number], f"{where}: exit {ended.code}: {ended.err[-300:]}")
        tally.kills += 1
        if twice:
            tally.twice += 1
            tally.quickest = max(tally.quickest, ended.after)
            out.require(ended.after < AT_ONCE, f"{where}: took {ended.after:.1f} s")
            return ended
        tally.slowest = max(tally.slowest, ended.after)
        out.require(ended.after < PROMPT, f"{where}: took {ended.after:.1f} s")
        out.require(not temporaries(workspace), f"{where}: {temporaries(workspace)[:3]}")
        locks = list(workspace.rglob("*.lock"))
        out.require(not locks, f"{where}: {locks[:3]}")
        told = ended.err.splitlines()
        says = len(told) == 1 and told[0].startswith("fit3d: interrupted - ")
        # Who interrupts the farewell of a run that has done everything hears nothing.
        done = not told and not differences(contents(workspace), self.expected)
        out.require(says or done, f"{where}: {ended.err[-300:]!r}")
        return ended


@check(
    "signals",
    area="Kills and faults",
    promise="Ctrl-C and SIGTERM end a run within seconds, with exit code 130 or 143; no process, "
    "no half-written file is left, and it can be resumed. A second signal ends it at once.",
    goal="100 signals in lifts and trainings: at most 5 s, no orphan, the same files in the end",
)
def signals(trial: Trial) -> Outcome:
    out, tally = Outcome(), Heard()
    place = ground(trial)
    goal = trial.size(100, 4)
    for verb, limit in (("lift", goal // 2), ("finetune", goal)):
        expected, whole = place.lifted if verb == "lift" else place.tuned
        chain = Interrupted(place, verb, whole, expected, EVERY if verb == "lift" else SAVED)
        while tally.kills < limit and not out.broken:
            workspace = trial.folder / f"{verb}-{tally.chains}"
            if verb == "finetune":
                workspace = place.to_tune(f"interrupted-{tally.chains}")
            chain.run(workspace, trial.draw(verb, tally.chains), tally, out, limit)
    out.cases = tally.kills
    out.figure = (
        f"{tally.kills} signals at random times, {tally.twice} of them twice; slowest end "
        f"{tally.slowest:.1f} s after the first, {tally.quickest:.2f} s after the second; "
        f"{tally.chains} runs to the end; 0 orphans"
    )
    return out
