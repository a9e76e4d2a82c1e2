"""Damaged checkpoints: the one before serves, the user is told, the result is the same."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.reliability._forks import Ended
from tests.reliability._ground import (
    SAVED,
    Contents,
    Ground,
    checkpoints,
    contents,
    differences,
    ground,
    put,
)
from tests.reliability._spoiling import Damage, damages
from tests.reliability.base import Outcome, Trial, check

SCENE = "room-00"
WARNING = "fit3d: WARNING: "


class Broken:
    """A training and a lift that were killed, to be resumed from damaged checkpoints."""

    def __init__(self, place: Ground, folder: Path, out: Outcome) -> None:
        self.place, self.folder, self.out = place, folder, out
        self.last = (place.steps - 1) // SAVED * SAVED  # step of the newest checkpoint
        workspace = place.to_tune("stopped")
        ended = place.run("finetune", workspace, kill=["finetune", place.steps])
        self.training = self._kept(workspace, ended)
        workspace = place.root / "fitted"
        ended = self._lift(workspace, kill=[f"{SCENE}: geometry", 10])
        self.lift = self._kept(workspace, ended)

    def _kept(self, workspace: Path, ended: Ended) -> Contents:
        assert ended.code == -signal.SIGKILL, ended.err
        found = contents(workspace, lambda name: not name.endswith(".lock"))
        shutil.rmtree(workspace)
        return found

    def _lift(self, workspace: Path, seed: int = 0, **job: object) -> Ended:
        argv = self.place.argv("lift", workspace, "--seed", seed)
        argv[1] = self.place.root / "rooms" / SCENE
        return self.place.fork(*argv, **job)

    def of_another_training(self) -> bytes:
        workspace = self.place.to_tune("another")
        self.place.run("finetune", workspace, "--seed", 5, kill=["finetune", self.last + 1])
        (found,) = [d for name, d in checkpoints(workspace).items() if f"{self.last:08}" in name]
        shutil.rmtree(workspace)
        return found

    def of_another_lift(self) -> bytes:
        workspace = self.place.root / "another"
        self._lift(workspace, seed=5, kill=[f"{SCENE}: geometry", 10])
        (path,) = workspace.glob("cache/geometry/*.safetensors")
        found = path.read_bytes()
        shutil.rmtree(workspace)
        return found

    def resume_training(self, name: str, ways: list[Damage], step: int) -> None:
        """Damage as many of the newest checkpoints as there are ways, and go on.

        Args:
            name: Of the damage.
            ways: What to do to the newest, to the one before it.
            step: Where the training goes on.
        """
        workspace = self.folder / "w"
        put(workspace, self.training)
        newest = sorted(workspace.glob("cache/finetune/*/step-*.safetensors"), reverse=True)
        for path, damage in zip(newest, ways, strict=False):
            damage(path)
        if not step:  # and killed again: what is damaged must not count as one of the last two
            ended = self.place.run("finetune", workspace, kill=["finetune", 2 * SAVED + 1])
            self._told(name, ended, newest, "the training starts again", 0)
            ended = self.place.run("finetune", workspace)
            begun = dict(reversed(ended.steps)).get("training")
            self.out.require(begun == 2 * SAVED, f"{name}: the second run began at {begun}")
            self.out.require((ended.code, ended.err) == (0, ""), f"{name}: {ended.err[-200:]}")
        else:
            ended = self.place.run("finetune", workspace)
            then = f"the training goes on from step {step}"
            self._told(name, ended, newest[: len(ways)], then, step)
            self.out.require(ended.code == 0, f"{name}: exit {ended.code}: {ended.err[-300:]}")
        wrong = differences(contents(workspace), self.place.tuned[0])
        self.out.require(not wrong, f"{name}: {wrong[:3]}")
        shutil.rmtree(workspace)

    def resume_lift(self, name: str, damage: Damage) -> None:
        """Damage the only checkpoint of the geometry, and go on."""
        workspace = self.folder / "w"
        put(workspace, self.lift)
        (path,) = workspace.glob("cache/geometry/*.safetensors")
        damage(path)
        ended = self._lift(workspace)
        self._told(name, ended, [path], "the geometry is fitted again", 0)
        self.out.require(ended.code == 0, f"{name}: exit {ended.code}: {ended.err[-300:]}")
        archive = f"scenes/{SCENE}.f3d"
        same = (workspace / archive).read_bytes() == self.place.lifted[0][archive]
        self.out.require(same, f"{name}: the archive differs")
        shutil.rmtree(workspace)

    def _told(self, name: str, ended: Ended, paths: list[Path], then: str, step: int) -> None:
        """One line per file, which names it; then it goes on where it should."""
        lines = ended.err.splitlines()
        right = len(lines) == len(paths) and all(
            line.startswith(WARNING)
            and f"{path.name[-40:]}: " in line  # of what is long the middle is left out
            and line.endswith(f" - set aside; {then}")
            for line, path in zip(lines, paths, strict=False)
        )
        self.out.require(right, f"{name}: {lines}")
        begun = ended.steps[0][1] if ended.steps else None
        self.out.require(begun == step, f"{name}: went on from step {begun}, not {step}")


@check(
    "checkpoints",
    area="Kills and faults",
    promise="A damaged checkpoint costs time and nothing else: the one before it is taken up, or "
    "the work begins again; one line names the file, which is kept beside, and the result is the "
    "same.",
    goal="newest checkpoint damaged in 50 ways, both, and that of the geometry: the same bytes",
)
def damaged(trial: Trial) -> Outcome:
    out = Outcome()
    broken = Broken(ground(trial), trial.folder, out)
    draw = trial.draw("damage")
    ways = list(damages(draw, broken.of_another_training()))
    single = ways[: trial.size(len(ways), 2)]
    for name, damage in single:
        broken.resume_training(f"newest: {name}", [damage], broken.last - SAVED)
    pairs = trial.size(8, 1)
    for _ in range(pairs):
        (one, first), (two, second) = draw.choice(ways), draw.choice(ways)
        broken.resume_training(f"both: {one}, {two}", [first, second], 0)
    ways = list(damages(draw, broken.of_another_lift()))[: trial.size(len(ways), 1)]
    for name, damage in ways:
        broken.resume_lift(f"geometry: {name}", damage)
    out.cases = len(single) + pairs + len(ways)
    out.figure = (
        f"newest of two damaged in {len(single)} ways: the one before it was taken up; both in "
        f"{pairs}: started again; that of a geometry in {len(ways)}: fitted again; one line per "
        "file, all results identical"
    )
    return out
