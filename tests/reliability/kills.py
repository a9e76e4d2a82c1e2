"""kill -9 at random points: nothing that was finished is lost, and the end is the same."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability._forks import Ended
from tests.reliability._ground import (
    EVERY,
    SAVED,
    SMALL,
    Contents,
    Ground,
    checkpoints,
    contents,
    differences,
    ground,
    identity,
    temporaries,
)
from tests.reliability.base import Outcome, Trial, check

REAL = 20  # kills between two of runs with a worker that imports everything itself
START = 4.0  # seconds that takes
SHARE = 0.4  # of a whole run that one between two kills may last at most


@dataclass
class Tally:
    """What many kills came to.

    Attributes:
        kills: Runs that were killed.
        outside: Those of them that another process killed after a while.
        chains: Runs that came to their end after being killed and resumed.
        stale: Kills that left a temporary file.
        repeated: Most steps of one optimisation that a resumed run made again.
        worst: Most temporary files that one kill left.
        last: Last step that was made, of each optimisation.
    """

    kills: int = 0
    outside: int = 0
    chains: int = 0
    stale: int = 0
    repeated: int = 0
    worst: int = 0
    last: dict[str, int] = field(default_factory=dict)

    def note_steps(self, ended: Ended) -> None:
        """Steps since the last kill: a resumed optimisation may begin a little earlier."""
        first: dict[str, int] = {}
        for name, step in ended.steps:
            first.setdefault(name, step)
        for name, step in first.items():
            if name in self.last:
                self.repeated = max(self.repeated, self.last[name] + 1 - step)
        self.last |= dict(ended.steps)


@dataclass(frozen=True)
class Chain:
    """One kind of run, killed over and over.

    Attributes:
        place: Where.
        verb: What is run.
        whole: The uninterrupted run.
        expected: What there must be at the end.
        every: Steps between checkpoints.
        options: Further options, drawn anew for each run.
    """

    place: Ground
    verb: str
    whole: Ended
    expected: Contents
    every: int
    options: Callable[[random.Random], list[object]] = lambda _: []
    stopped = frozenset({-signal.SIGKILL})

    def run(
        self, workspace: Path, draw: random.Random, tally: Tally, out: Outcome, limit: int
    ) -> None:
        """Kill and resume until a run comes to its end; then compare.

        Args:
            workspace: Prepared.
            draw: Decides the points.
            tally: Counted here.
            out: Broken promises.
            limit: Kills at most.
        """
        kept = {path: identity(path) for path in finished(workspace)}
        tally.last = {}
        while True:
            alive = tally.kills >= limit
            ended = self.once(workspace, draw, tally, out, alive=alive)
            where = f"{self.verb}, kill {tally.kills}"
            tally.note_steps(ended)
            out.require(not ended.orphans, f"{where}: still there after 5 s: {ended.orphans}")
            for path, before in kept.items():
                same = path.is_file() and identity(path) == before
                out.require(same, f"{where}: {path.name} was finished and is not any more")
            wrong = self.place.broken(workspace) + self.strange(workspace)
            out.require(not wrong, f"{where}: {wrong[:3]}")
            kept = {path: identity(path) for path in finished(workspace)}
            if ended.code not in self.stopped:
                break
            left = len(temporaries(workspace))
            tally.stale += left > 0
            tally.worst = max(tally.worst, left)
        out.require((ended.code, ended.err) == (0, ""), f"{where}: {ended.code} {ended.err[-300:]}")
        wrong = differences(contents(workspace), self.expected)
        out.require(not wrong, f"{where}: {wrong[:5]}")
        out.require(
            tally.repeated <= self.every,
            f"{where}: {tally.repeated} steps were repeated, {self.every} are between checkpoints",
        )
        tally.chains += 1
        shutil.rmtree(workspace, ignore_errors=True)

    def once(
        self, workspace: Path, draw: random.Random, tally: Tally, out: Outcome, *, alive: bool
    ) -> Ended:
        """One run, killed at a point that is drawn unless it is to stay alive."""
        more = self.options(draw)
        if alive:
            return self.place.run(self.verb, workspace, *more)
        outside = tally.kills % 2 == 0
        if outside:
            # At times the worker of a lift is no fork but starts as users' do, in its seconds.
            real = self.place.scenes > SMALL and tally.kills % REAL == 0
            running = self.place.start(self.verb, workspace, *more, exec=real)
            longest = SHARE * self.whole.seconds + START * real
            running.pause(draw.random() * longest)
            # As the system ends one process that takes too much, or a scheduler a whole job.
            running.send(signal.SIGKILL, group=draw.random() < 0.5)
            (ended,) = running.wait()
        else:
            kind = draw.choice(("write", "sync", "event"))
            count = sum(k == kind for k, _, _ in self.whole.trace)
            kill = [kind, 1 + int(draw.random() * SHARE * count)]
            ended = self.place.run(self.verb, workspace, *more, kill=kill)
        if ended.code == -signal.SIGKILL:
            tally.kills += 1
            tally.outside += outside
        return ended

    def strange(self, workspace: Path) -> list[str]:
        """Checkpoints of a training that are not, byte for byte, those of one without kills."""
        if self.verb == "lift":
            return []
        known = self.place.checkpoints
        return [n for n, data in checkpoints(workspace).items() if known.get(n) != data]


def finished(workspace: Path) -> list[Path]:
    """Results that may never be touched again."""
    scenes = list(workspace.glob("scenes/*.f3d"))
    whole = (workspace / "models/tuned/config.json").exists()
    return scenes + (list(workspace.glob("models/tuned/*")) if whole else [])


@check(
    "kills-lift",
    area="Kills and faults",
    promise="`fit3d lift` may be killed at any moment: finished scenes stay as they are, every "
    "file is whole, and the resumed run ends in the same bytes.",
    goal="200 kill -9 in lifts of 12 scenes: no file lost or unreadable, at most one checkpoint "
    "interval repeated, all files identical",
)
def kills_lift(trial: Trial) -> Outcome:
    out, tally = Outcome(), Tally()
    place = ground(trial, trial.size(12, SMALL))
    expected, whole = place.lifted
    chain = Chain(place, "lift", whole, expected, EVERY)
    goal = trial.size(200, 4)
    while tally.kills < goal and not out.broken:
        workspace = trial.folder / f"lift-{tally.chains}"
        chain.run(workspace, trial.draw("lift", tally.chains), tally, out, goal)
    out.cases, out.figure = tally.kills, told(tally, f"lifts of {place.scenes} scenes", EVERY)
    return out


def kills_finetune(trial: Trial, workers: int) -> Outcome:
    """Kills of a training whose samples are loaded by so many threads."""
    out, tally = Outcome(), Tally()
    place = ground(trial)
    expected, whole = place.tuned  # with one thread
    goal = trial.size(200, 3)
    while tally.kills < goal and not out.broken:
        # Every other training goes on with another number of threads each time.
        mixed = workers and tally.chains % 2

        def options(draw: random.Random, mixed: bool = bool(mixed)) -> list[object]:
            return ["--set", f"finetune.workers={draw.randint(0, 3) if mixed else workers}"]

        chain = Chain(place, "finetune", whole, expected, SAVED, options)
        workspace = place.to_tune(f"finetune-{workers}-{tally.chains}")
        draw = trial.draw("finetune", workers, tally.chains)
        chain.run(workspace, draw, tally, out, goal)
    what = f"trainings of {place.steps} steps, workers = {workers}"
    out.cases, out.figure = tally.kills, told(tally, what, SAVED)
    return out


@check(
    "kills-finetune-0",
    area="Kills and faults",
    promise="`fit3d finetune` may be killed at any moment, also inside an epoch: weights, "
    "optimiser state, losses and model directory of the resumed run are the same bytes.",
    goal="200 kill -9 in trainings of 60 steps that load samples themselves: all files identical",
)
def kills_finetune_0(trial: Trial) -> Outcome:
    return kills_finetune(trial, 0)


@check(
    "kills-finetune-2",
    area="Kills and faults",
    promise="The same with samples loaded ahead by two threads, and with another number of them "
    "after each kill.",
    goal="200 kill -9 in trainings of 60 steps with 2 loaders: all files identical",
)
def kills_finetune_2(trial: Trial) -> Outcome:
    return kills_finetune(trial, 2)


def told(tally: Tally, what: str, every: int) -> str:
    """The line for the table."""
    return (
        f"{tally.kills} kills of {what}, {tally.outside} at random times from outside, the others "
        "in the middle of a write, before a sync, at an event; "
        f"{tally.chains} runs to the end; 0 files lost, at most {tally.repeated} steps made twice "
        f"({every} between checkpoints); {tally.stale} kills left a temporary file (at most "
        f"{tally.worst}), none was there at the end"
    )
