"""What else goes wrong while a run works: a full disk, lost bytes, Ctrl-C in the real program.

``tests/reliability/kills.py`` kills runs at any moment.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability._ground import (
    SMALL,
    Contents,
    Ground,
    contents,
    differences,
    files,
    ground,
    identity,
    put,
    temporaries,
)
from tests.reliability.base import Trial


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return ground(Trial(tmp_path_factory.mktemp("kill")))


def identities(folder: Path, pattern: str) -> dict[str, tuple[int, int, int]]:
    return {path.name: identity(path) for path in folder.glob(pattern)}


def finished(place: Ground, verb: str, workspace: Path) -> None:
    ended = place.run(verb, workspace)
    assert (ended.code, ended.err) == (0, "")


def test_damaged_files_are_made_again(place: Ground, tmp_path: Path) -> None:
    """A disk can lose bytes of what was whole: neither cache nor result is taken on trust."""
    workspace = tmp_path / "damaged"
    whole = place.lifted[0] | place.tuned[0]
    spoilt = (".safetensors", "room-01.f3d")
    put(workspace, {n: d[: len(d) // 2] if n.endswith(spoilt) else d for n, d in whole.items()})
    kept = identities(workspace / "scenes", "room-0[02].f3d")
    ended = place.run("lift", workspace)
    # The one scene that is lifted again meets the damaged checkpoint of its geometry.
    assert ended.code == 0 and ended.err.count("\n") == ended.err.count("set aside") == 1
    assert kept.items() <= identities(workspace / "scenes", "*.f3d").items()
    finished(place, "finetune", workspace)
    # What only the kept rooms were made from stays spoilt: nobody reads it.
    idle = ("cache/tokens/", "cache/geometry/")
    wrong = differences(made(workspace, idle), {n: d for n, d in whole.items() if made_by(n, idle)})
    assert not wrong


def made_by(name: str, idle: tuple[str, ...]) -> bool:
    return not name.startswith(idle)


def made(workspace: Path, idle: tuple[str, ...]) -> Contents:
    return contents(workspace, lambda name: made_by(name, idle))


@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_no_room_for_a_file(place: Ground, tmp_path: Path, limit: int) -> None:
    workspace = tmp_path / f"full {limit}"
    ended = place.run("lift", workspace, limit=limit)
    lines = ended.err.splitlines()
    assert ended.code == 3
    assert len(lines) == SMALL
    assert all(line.startswith("fit3d: error: ") and "cannot be written" in line for line in lines)
    assert not temporaries(workspace) + list(workspace.rglob("*.lock"))
    assert not place.broken(workspace)
    finished(place, "lift", workspace)
    assert not differences(contents(workspace), place.lifted[0])


@pytest.fixture
def fit3d() -> Callable[..., subprocess.Popen[str]]:
    """Start the real program."""
    program = shutil.which("fit3d", path=str(Path(sys.executable).parent))
    start = [program] if program else [sys.executable, "-m", "fit3d_cli"]
    return lambda *argv: subprocess.Popen(
        [*start, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent.parent, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_interrupted(place: Ground, fit3d, tmp_path: Path) -> None:
    """Nothing is forked here: the program, its worker and its farewell as users have them."""
    workspace = tmp_path / "interrupted"
    argv = place.argv("lift", workspace)
    argv.remove("-q")
    # Steps for a minute, so that the signal meets the run in the middle.
    more = ["--set", "lift.geometry.iterations=20000"]
    process = fit3d(*argv, *more)
    for line in process.stderr:
        if "room-00: geometry" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    last = err.splitlines()[-1]
    assert last.startswith("fit3d: interrupted - finished scenes, tokens, and the geometry")
    assert last.endswith(f"; to go on: {shlex.join(['fit3d', *map(str, argv), *more])}")
    assert "Traceback" not in err
    assert not temporaries(workspace) + list(workspace.rglob("*.lock"))
    assert not place.broken(workspace)
    assert any(files(workspace))
