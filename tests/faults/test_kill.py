"""A run that is killed, interrupted or out of disk leaves whole files, and ends the same later."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli.archive import verify_archive
from fit3d_cli.rooms import write_room
from fit3d_cli.tensorfile import MODEL_LIMITS, read_tensors

ROOMS = 3
SIZES = ((48, 32), (64, 48), (48, 32))
Trace = list[tuple[str, int, str]]


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code, or the negative signal.
        err: Its stderr.
        trace: What it did to the disk, if it ended by itself.
    """

    code: int
    err: str
    trace: Trace


class Forker:
    """Runs command lines in forked children of a process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        script = Path(__file__).with_name("forking.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=folder, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._answer() == "ready"

    def __call__(self, *argv: object, kill: Any = None, limit: int = 0) -> Ended:
        job = {"argv": list(map(str, argv)), "kill": kill, "limit": limit, "log": str(self.log)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code = self._answer()
        trace = Path(f"{self.log}.trace")
        told = json.loads(trace.read_text()) if trace.exists() else []
        trace.unlink(missing_ok=True)
        return Ended(code, Path(f"{self.log}.stderr").read_text(), [tuple(e) for e in told])

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@dataclass(frozen=True)
class Place:
    """Three rooms, and what an uninterrupted run makes of them.

    Attributes:
        root: Holds ``rooms``, the model ``tiny``, and the finished workspace ``whole``.
        run: Runs a command line.
        lift: Trace of the uninterrupted lift.
        finetune: Trace of the uninterrupted fine-tuning.
        files: Every file of the finished workspace.
        lifted: Those that were there before fine-tuning.
    """

    root: Path
    run: Forker
    lift: Trace
    finetune: Trace
    files: dict[str, bytes]
    lifted: dict[str, bytes]

    def argv(self, verb: str, workspace: str) -> list[object]:
        return command(self.root, verb, workspace)


def command(root: Path, verb: str, workspace: str) -> list[object]:
    common = ["--profile", root / "small.toml", "--workspace", root / workspace, "-q"]
    common += ["--device", "cpu"]
    inputs = [root / "rooms", "--backbone", root / "tiny"] if verb == "lift" else []
    return [verb, *inputs, *common]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def place(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("kill") / "w"
    shutil.copytree(model, root)
    for i, (width, height) in enumerate(SIZES):
        write_room(root / f"rooms/room-{i}", i, views=4, width=width, height=height)
    run = Forker(root)
    try:
        lift = run(*command(root, "lift", "whole"))
        lifted = contents(root / "whole")
        finetune = run(*command(root, "finetune", "whole"))
        assert (lift.code, lift.err, finetune.code, finetune.err) == (0, "", 0, "")
        yield Place(root, run, lift.trace, finetune.trace, contents(root / "whole"), lifted)
    finally:
        run.process.kill()
        run.process.communicate()


def point(trace: Trace, kind: str, part: str, seed: int) -> list[Any]:
    """One of the moments of this kind that concern ``part``, by the seed."""
    moments = [(kind, n) for k, n, what in trace if k == kind and part in what]
    assert moments, f"no {kind} of {part}"
    return list(random.Random(seed).choice(moments))


def every_file_is_whole(workspace: Path) -> None:
    """What has a final name can be read, whenever the run was killed."""
    for path in workspace.rglob("*"):
        if not path.is_file() or ".f3dtmp" in path.name:
            continue
        if path.suffix == ".f3d":
            verify_archive(path)
        elif path.suffix == ".safetensors":
            read_tensors(path, limits=MODEL_LIMITS)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix in (".lock", ".md", ".jsonl", ".py"), path


def identities(folder: Path, pattern: str) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in folder.glob(pattern)}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in stats.items()}


# What the run is doing when it is killed; the seed picks one of several such moments.
LIFT_KILLS = {
    "half a checkpoint": ("write", "cache/geometry/", 1),
    "half a token file": ("write", "cache/tokens/", 2),
    "half an archive": ("write", "scenes/.room-1.f3d.", 3),
    "archive not yet renamed": ("sync", "scenes/.room-2.f3d.", 4),
    "archive just renamed": ("sync", "scenes", 5),
    "half the memory of captures": ("write", ".captures.json.", 6),
    "anywhere": ("event", "room-1", 7),
}
FINETUNE_KILLS = {
    "half the targets": ("write", "cache/targets/", 1),
    "half a checkpoint": ("write", "cache/finetune/", 2),
    "checkpoint not yet renamed": ("sync", "/.step-", 3),
    "half the weights": ("write", "models/tuned/.model.safetensors.", 4),
    "half the config": ("write", "models/tuned/.config.json.", 5),
    "config not yet renamed": ("sync", "models/tuned/.config.json.", 6),
    "while training": ("event", "finetune", 7),
}


def killed(place: Place, verb: str, workspace: Path, kill: list[Any]) -> None:
    ended = place.run(*place.argv(verb, workspace.name), kill=kill)
    assert (ended.code, ended.err) == (-signal.SIGKILL, "")
    every_file_is_whole(workspace)


def finished(place: Place, verb: str, workspace: Path) -> None:
    ended = place.run(*place.argv(verb, workspace.name))
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("moment", LIFT_KILLS)
def test_lift_killed(place: Place, moment: str) -> None:
    workspace = place.root / f"lift {moment}"
    killed(place, "lift", workspace, point(place.lift, *LIFT_KILLS[moment]))
    done = identities(workspace / "scenes", "*.f3d")
    finished(place, "lift", workspace)
    after = identities(workspace / "scenes", "*.f3d")
    assert done.items() <= after.items()  # kept as they were, not made again
    assert contents(workspace) == place.lifted  # nor is there any half-written file


@pytest.mark.parametrize("moment", FINETUNE_KILLS)
def test_finetune_killed(place: Place, moment: str) -> None:
    workspace = place.root / f"finetune {moment}"
    for name, data in place.lifted.items():
        if not name.startswith("cache/"):
            (workspace / name).parent.mkdir(parents=True, exist_ok=True)
            (workspace / name).write_bytes(data)
    killed(place, "finetune", workspace, point(place.finetune, *FINETUNE_KILLS[moment]))
    assert not (workspace / "models/tuned/config.json").exists()  # so it does not pass for a model
    finished(place, "finetune", workspace)
    unlifted = {k: v for k, v in place.files.items() if not k.startswith("cache/")}
    after = contents(workspace)
    assert {k: v for k, v in after.items() if not k.startswith("cache/")} == unlifted
    assert {k: v for k, v in after.items() if k.startswith("cache/")}.items() <= place.files.items()


def test_many_kills_in_a_row(place: Place) -> None:
    """However often it dies early: what is left over never adds up to something wrong."""
    workspace = place.root / "many"
    draw = random.Random(8)
    for _ in range(3):
        killed(place, "lift", workspace, ["sync", draw.randint(4, 12)])
    finished(place, "lift", workspace)
    assert contents(workspace) == place.lifted


def test_damaged_files_are_made_again(place: Place) -> None:
    """A disk can lose bytes of what was whole: neither cache nor result is taken on trust."""
    workspace = place.root / "damaged"
    for name, data in place.files.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        spoilt = name.endswith((".safetensors", "room-1.f3d"))
        (workspace / name).write_bytes(data[: len(data) // 2] if spoilt else data)
    kept = identities(workspace / "scenes", "room-[02].f3d")
    finished(place, "lift", workspace)
    assert kept.items() <= identities(workspace / "scenes", "*.f3d").items()
    finished(place, "finetune", workspace)
    # What only the kept rooms were made from stays spoilt: nobody reads it.
    idle = ("cache/tokens/", "cache/geometry/")
    after = contents(workspace)
    assert after.keys() == place.files.keys()
    assert not [n for n in after if after[n] != place.files[n] and not n.startswith(idle)]


@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_no_room_for_a_file(place: Place, limit: int) -> None:
    workspace = place.root / f"full {limit}"
    ended = place.run(*place.argv("lift", workspace.name), limit=limit)
    lines = ended.err.splitlines()
    assert ended.code == 3
    assert len(lines) == ROOMS
    assert all(line.startswith("fit3d: error: ") and "cannot be written" in line for line in lines)
    assert not list(workspace.rglob("*.f3dtmp")) + list(workspace.rglob("*.lock"))
    every_file_is_whole(workspace)
    finished(place, "lift", workspace)
    assert contents(workspace) == place.lifted


@pytest.fixture
def fit3d(place: Place) -> Callable[..., subprocess.Popen[str]]:
    """Start the real program."""
    program = shutil.which("fit3d", path=str(Path(sys.executable).parent))
    start = [program] if program else [sys.executable, "-m", "fit3d_cli"]
    return lambda *argv: subprocess.Popen(
        [*start, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent.parent, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(place: Place, fit3d, number: int, code: int) -> None:
    workspace = place.root / f"signal {code}"
    argv = place.argv("lift", workspace.name)
    argv.remove("-q")
    # Steps for a minute, so that the signal meets the run in the middle.
    process = fit3d(*argv, "--set", "lift.geometry.iterations=20000")
    for line in process.stderr:
        if "room-0: geometry" in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    last = err.splitlines()[-1]
    assert last.startswith("fit3d: interrupted - finished scenes, tokens, and the geometry")
    again = shlex.join(["fit3d", *map(str, argv), "--set", "lift.geometry.iterations=20000"])
    assert last.endswith(f"; to go on: {again}")
    assert "Traceback" not in err
    assert not list(workspace.rglob("*.f3dtmp")) + list(workspace.rglob("*.lock"))
    every_file_is_whole(workspace)
    finished(place, "lift", workspace)  # with fewer steps, so from the start
    scenes = {k: v for k, v in contents(workspace).items() if k.startswith("scenes/")}
    assert scenes == {k: v for k, v in place.files.items() if k.startswith("scenes/")}
