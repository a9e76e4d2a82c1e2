"""The kills find what they look for: defects that are planted here come out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability._ground import EVERY, SAVED, Ground, checkpoints, ground
from tests.reliability.base import Outcome, Trial
from tests.reliability.kills import Chain, Tally

IN_PLACE = """
from fit3d_cli.storage import writing
from fit3d_cli.tensorfile import files

def write(path, data, **_):
    import os
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for piece in [data] if isinstance(data, bytes) else data:
        os.write(fd, piece)
    os.close(fd)

files.write_bytes = write
"""
FORGETS = """
import torch
from fit3d_cli.finetuning import checkpoints, trainer

def forget(directory, state, *rest, restore=trainer.restore, **more):
    restore(directory, state, *rest, **more)
    for moments in state.optimizer.state.values():
        moments["exp_avg"].zero_()

trainer.restore = forget
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Ground]:
    made = ground(Trial(tmp_path))
    assert made.lifted and made.tuned and made.checkpoints  # without the defect
    yield made
    made.fork.before = ""


def plant(place: Ground, folder: Path, defect: str) -> None:
    script = folder / "defect.py"
    script.write_text(defect)
    place.fork.before = str(script)


def test_writing_in_place_is_found(place: Ground, tmp_path: Path) -> None:
    out, tally = Outcome(), Tally()
    expected, whole = place.lifted
    chain = Chain(place, "lift", whole, expected, EVERY)
    plant(place, tmp_path, IN_PLACE)
    for number in range(9):
        draw = Trial(tmp_path).draw("lift", number)
        chain.run(tmp_path / "w", draw, tally, out, tally.kills + 3)
        if out.broken:
            break
    assert any("truncated" in line or "empty" in line for line in out.broken), out.broken


def test_a_forgotten_moment_of_the_optimiser_is_found(place: Ground) -> None:
    expected, whole = place.tuned
    chain = Chain(place, "finetune", whole, expected, SAVED)
    workspace = place.to_tune("forgetful")
    place.run("finetune", workspace, kill=["finetune", SAVED + 1])
    assert checkpoints(workspace) and not chain.strange(workspace)
    plant(place, place.root, FORGETS)
    place.run("finetune", workspace, kill=["finetune", 2 * SAVED + 1])
    (strange,) = chain.strange(workspace)
    assert strange.endswith(f"step-{2 * SAVED:08}.safetensors")
    shutil.rmtree(workspace)
