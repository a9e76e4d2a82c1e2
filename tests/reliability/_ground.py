"""Where runs are killed: tiny rooms, a tiny model, and what an uninterrupted run makes of them."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fit3d_cli.archive import verify_archive
from fit3d_cli.errors import Fit3dError
from fit3d_cli.rooms import write_room
from fit3d_cli.tensorfile import MODEL_LIMITS, read_tensors
from tests.faults.world import write_model
from tests.reliability._forks import Ended, Forker, Running
from tests.reliability.base import Trial

SMALL = 3  # scenes
EVERY = 4  # steps between checkpoints of the geometry
SAVED = 7  # and of the training, which has as many steps in a pass over the views, or fewer
SIZES = ((48, 32), (64, 48))
# Small enough for a fraction of a second per scene; every stage of the real thing runs.
PROFILE = """
[lift]
heldout = 0.2
[lift.backbone]
width = 48
[lift.geometry]
width = 48
iterations = 12
init_gaussians = 200
checkpoint_every = {every}
[lift.features]
dim = 4
[finetune]
epochs = {steps}
max_steps = {steps}
checkpoint_every = {saved}
heldout_points = 2
jitter = 0.2
ema = 0.9
schedule = "cosine"
lr = 1e-4
[finetune.objectives]
anchor = 0.1
info_nce = 0.1
[finetune.pairs]
min_overlap = 0.05
points = 32
"""
Identity = tuple[int, int, int]
Contents = dict[str, bytes]


class Ground:
    """Inputs, the process that forks runs, and finished workspaces to compare with.

    Args:
        scenes: How many rooms there are.
        steps: Of a training.
    """

    def __init__(self, scenes: int, steps: int) -> None:
        self.scenes, self.steps = scenes, steps
        self.root = Path(tempfile.mkdtemp(prefix="fit3d-kills-"))
        (self.root / "small.toml").write_text(PROFILE.format(every=EVERY, saved=SAVED, steps=steps))
        write_model(self.root / "tiny", 1)
        for i in range(scenes):
            width, height = SIZES[i % 2]
            room = self.root / f"rooms/room-{i:02}"
            write_room(room, i, views=4, width=width, height=height)
        self.fork = Forker(self.root)
        self._known: dict[Path, Identity] = {}

    def close(self) -> None:
        self.fork.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def argv(self, verb: str, workspace: Path, *more: object) -> list[object]:
        """A command line."""
        common = ["--profile", self.root / "small.toml", "--workspace", workspace, "-q"]
        inputs = [self.root / "rooms", "--backbone", self.root / "tiny"] if verb == "lift" else []
        return [verb, *inputs, *common, "--device", "cpu", *more]

    def start(self, verb: str, workspace: Path, *more: object, **job: Any) -> Running:
        return self.fork.start(*self.argv(verb, workspace, *more), **job)

    def run(self, verb: str, workspace: Path, *more: object, **job: Any) -> Ended:
        return self.start(verb, workspace, *more, **job).wait()[0]

    @cached_property
    def lifted(self) -> tuple[Contents, Ended]:
        """Every file of a workspace that was lifted at one go, and how that went."""
        return self._whole("lift", self.root / "lifted")

    @cached_property
    def tuned(self) -> tuple[Contents, Ended]:
        """Every file of ``to_tune`` after a training at one go, and how that went."""
        return self._whole("finetune", self.to_tune("tuned"))

    def _whole(self, verb: str, workspace: Path) -> tuple[Contents, Ended]:
        ended = self.run(verb, workspace)
        assert (ended.code, ended.err) == (0, ""), ended.err
        return contents(workspace), ended

    @cached_property
    def checkpoints(self) -> Contents:
        """Every checkpoint of a training at one go: parameters, optimiser, averages, losses."""
        workspace = self.to_tune("checkpoints")
        script = self.root / "keep.py"
        script.write_text(
            "import sys\nfrom fit3d_cli import app\nfrom fit3d_cli.finetuning import checkpoints\n"
            f"checkpoints._KEEP = 99\n"
            f"sys.argv = ['fit3d', *{list(map(str, self.argv('finetune', workspace)))}]\napp.main()"
        )
        ended = self.fork(script=str(script), kill=["finetune", self.steps])
        found = checkpoints(workspace)
        assert len(found) == (self.steps - 1) // SAVED, (ended, list(found))
        return found

    def to_tune(self, name: str) -> Path:
        """A new workspace with the lifted scenes and no cache."""
        workspace = self.root / name
        put(workspace, {k: v for k, v in self.lifted[0].items() if not k.startswith("cache/")})
        return workspace

    def broken(self, workspace: Path) -> list[str]:
        """Files with a final name that cannot be read; each state of a file is read once."""
        wrong = []
        for path in files(workspace):
            now = identity(path)
            if self._known.get(path) == now or ".f3dtmp" in path.name:
                continue
            try:
                if path.suffix == ".f3d":
                    verify_archive(path)
                elif path.suffix == ".safetensors":
                    read_tensors(path, limits=MODEL_LIMITS)
                elif path.suffix == ".json":
                    json.loads(path.read_text())
                elif path.suffix == ".jsonl":
                    list(map(json.loads, path.read_text().splitlines()))
                else:
                    assert path.suffix in (".lock", ".md", ".py", ".log"), "of no known kind"
                self._known[path] = now
            except (Fit3dError, ValueError, AssertionError) as error:
                wrong.append(f"{path.relative_to(workspace)}: {error}")
        return wrong


def ground(trial: Trial, scenes: int = SMALL) -> Ground:
    """Where to try it; the goals speak of trainings of 60 steps."""
    return _ground(scenes, trial.size(60, 24))


@cache
def _ground(scenes: int, steps: int) -> Ground:
    """One per size and process; its folder goes when the process ends."""
    made = Ground(scenes, steps)
    atexit.register(made.close)
    return made


def files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def contents(folder: Path, keep: Callable[[str], bool] = bool) -> Contents:
    """The bytes of every file below a folder."""
    names = {path.relative_to(folder).as_posix(): path for path in files(folder)}
    return {name: path.read_bytes() for name, path in names.items() if keep(name)}


def put(folder: Path, wanted: Contents) -> None:
    for name, data in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def checkpoints(workspace: Path) -> Contents:
    return contents(workspace, lambda name: "/step-" in name and name.endswith(".safetensors"))


def identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def temporaries(workspace: Path) -> list[str]:
    """Half-written files; a lock that nobody holds is litter, too."""
    found = (path.relative_to(workspace).as_posix() for path in workspace.rglob("*"))
    return [name for name in found if ".f3dtmp" in name]


def differences(found: Contents, expected: Contents) -> list[str]:
    """Names of what is missing, of what is too many, of what differs."""
    return sorted(
        [f"{name} is missing" for name in expected.keys() - found.keys()]
        + [f"{name} is left over" for name in found.keys() - expected.keys()]
        + [f"{n} differs" for n in expected.keys() & found.keys() if found[n] != expected[n]]
    )
