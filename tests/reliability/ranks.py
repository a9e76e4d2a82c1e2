"""A training shared by processes of which one is lost: a quick end that names it, and no harm."""

from __future__ import annotations

import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.reliability._forks import Ended
from tests.reliability._ground import (
    Contents,
    Ground,
    checkpoints,
    contents,
    differences,
    ground,
    temporaries,
)
from tests.reliability.base import Outcome, Trial, check

PROMPT = 30.0  # seconds in which a job without one of its processes must end
SIZE = 2
# With pairs three samples a step: two in the first process, one in the second.
SHARED = ("--set", "finetune.batch=6")
# Without torchrun, which ends the others, those that wait for one that never came need patience.
MEETING = """
from fit3d_cli.finetuning import joining
joining._MEETING = 6.0
"""
SHARE = 0.8  # of a whole run after which a process is lost at the latest


@dataclass
class Lost:
    """What the losses came to.

    Attributes:
        cases: How many there were.
        early: Of which the other one told before its first step.
        slowest: Longest time from a loss to the end of the last process, seconds.
    """

    cases: int = 0
    early: int = 0
    slowest: float = 0.0


def whole(place: Ground, name: str) -> tuple[Contents, float]:
    """What two processes make of the scenes at one go, and how long it takes."""
    workspace = place.to_tune(name)
    ended = place.start("finetune", workspace, *SHARED, ranks=SIZE).wait()
    assert [e.code for e in ended] == [0] * SIZE, ended
    found = contents(workspace)
    shutil.rmtree(workspace)
    return found, ended[0].seconds


@check(
    "ranks",
    area="Kills and faults",
    promise="If one process of a shared training is killed or computes a NaN, the others end "
    "within seconds and say which it was; the resumed training ends in the same bytes.",
    goal="2 processes, one lost at 50 points: at most 30 s, its number is told, the same files",
)
def ranks(trial: Trial) -> Outcome:
    out, lost = Outcome(), Lost()
    place = ground(trial)
    expected, seconds = whole(place, "together")
    draw = trial.draw("ranks")
    goal, poisoned = trial.size(50, 1), trial.size(6, 0)
    chains = alone = 0
    meeting = place.root / "meeting.py"
    meeting.write_text(MEETING)
    while lost.cases < goal and not out.broken:
        workspace = place.to_tune(f"ranks-{chains}")
        chains += 1
        while lost.cases < goal:
            rank, before = draw.randrange(SIZE), {*temporaries(workspace)}
            running = place.start("finetune", workspace, *SHARED, ranks=SIZE, before=str(meeting))
            running.pause(draw.random() * SHARE * seconds)
            running.send(signal.SIGKILL, group=True, rank=rank)
            ended = running.wait()
            if ended[rank].code == 0:
                break  # it was faster
            judge(f"killed, {lost.cases}", ended, rank, place, workspace, out, lost)
            # What a first process left that was killed lies there until one comes to clear it.
            new = {*temporaries(workspace)} - before
            out.require(not rank or not new, f"killed, {lost.cases}: {sorted(new)[:3]}")
        # The last of them goes on alone, which gives other bytes, but a model.
        if trial.whole and chains % 8 == 0:
            alone += 1
            ended = [place.run("finetune", workspace, *SHARED)]
            out.require(ended[0].code == 0, f"alone: {ended[0].err[-300:]}")
            out.require((workspace / "models/tuned/config.json").exists(), "alone: no model")
        else:
            ended = place.start("finetune", workspace, *SHARED, ranks=SIZE).wait()
            out.require([e.code for e in ended] == [0] * SIZE, f"resumed: {ended[0].err[-300:]}")
            wrong = differences(contents(workspace), expected)
            out.require(not wrong, f"resumed: {wrong[:4]}")
        shutil.rmtree(workspace)
    for number in range(poisoned):
        rank, step = draw.randrange(SIZE), draw.randrange(place.steps)
        poison(place, f"NaN in {rank} at step {step}", rank, step, out, lost, f"nan-{number}")
    out.cases = lost.cases
    out.figure = (
        f"{lost.cases - poisoned} kills ({lost.early} before the first step) and {poisoned} NaNs "
        f"in {SIZE} processes: the others ended after at most {lost.slowest:.1f} s and named it; "
        f"{chains} trainings to the end, {alone} "
        "of them by one process alone, the others identical"
    )
    return out


def judge(
    where: str, ended: list[Ended], rank: int, place: Ground, workspace: Path, out: Outcome,
    lost: Lost,
) -> None:  # fmt: skip
    """One process was killed: how did the other one take it?"""
    lost.cases += 1
    other = ended[1 - rank]
    lost.slowest = max(lost.slowest, other.after)
    out.require(ended[rank].code == -signal.SIGKILL, f"{where}: exit {ended[rank].code}")
    out.require(other.after < PROMPT, f"{where}: took {other.after:.0f} s")
    if other.code == 0:
        return  # it had done its share, or all of it
    out.require(other.code == 3, f"{where}: exit {other.code}: {other.err[-300:]}")
    out.require(not other.orphans, f"{where}: {other.orphans}")
    says = f"process {rank} of this training" in other.err and other.err.count("\n") == 1
    early = not other.steps and "another process of this training is gone" in other.err
    lost.early += not other.steps
    out.require(says or early, f"{where}, process {rank}: {other.err[-300:]!r}")
    out.require(not place.broken(workspace), f"{where}: {place.broken(workspace)[:3]}")


def poison(
    place: Ground, where: str, rank: int, step: int, out: Outcome, lost: Lost, name: str
) -> None:
    """One process computes no number: all end with the first one's message, nothing is kept."""
    workspace = place.to_tune(name)
    ended = place.start("finetune", workspace, *SHARED, ranks=SIZE, poison=[rank, step]).wait()
    lost.cases += 1
    out.require([e.code for e in ended] == [2, 2], f"{where}: exit {[e.code for e in ended]}")
    says = rf"the training diverged at step (\d+) of {place.steps}, in process {rank} - "
    found = re.search(says, ended[0].err)
    told = found is not None and step < int(found[1]) <= step + 2 and not ended[1].err
    out.require(told, f"{where}: {ended[0].err[-300:]!r}")
    out.require(not (workspace / "models/tuned").exists(), f"{where}: a model was written")
    newest = [int(Path(n).stem.removeprefix("step-")) for n in checkpoints(workspace)]
    out.require(max(newest, default=0) <= step + 1, f"{where}: checkpoints of {newest}")
    shutil.rmtree(workspace)
