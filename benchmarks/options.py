"""What every benchmark command is told, and how it reaches a child process."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import results


@dataclass(frozen=True)
class Setup:
    """One benchmark run.

    Attributes:
        scene: Archive, None for the synthetic room.
        synthetic: Gaussians of the synthetic room.
        width: Picture width in pixels.
        height: Picture height in pixels.
        dim: Channels that are splatted.
        rounds: Timed repeats of each side.
        threads: CPU threads of every side.
        seed: Of everything random.
        quick: A small picture and few rounds: does it run, not how fast.
        workspace: Workspace with cached tokens and weights, for the lift.
        memory: Whether peak memory is measured (a process per side).
        only: Figures to measure, all if empty.
        view: The view to draw, None for a typical one.
    """

    scene: str | None = None
    synthetic: int = 400_000
    width: int = 640
    height: int = 480
    dim: int = 64
    rounds: int = 20
    threads: int = 2
    seed: int = 0
    quick: bool = False
    workspace: str | None = None
    memory: bool = True
    only: tuple[str, ...] = ()
    view: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Setup:
        """What ``to_json`` and ``json.dumps`` wrote, in a child process; sets torch's threads."""
        fields = json.loads(text)
        made = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        torch.set_num_threads(made.threads)
        return made

    def wants(self, figure: str) -> bool:
        """Whether a figure is to be measured."""
        return not self.only or figure in self.only


QUICK = {"synthetic": 800, "width": 64, "height": 48, "dim": 8, "rounds": 2, "memory": False}


def parser(about: str) -> argparse.ArgumentParser:
    """The options that all benchmark commands share."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--scene", metavar="FILE.f3d", help="a lifted scene")
    made.add_argument("--synthetic", type=int, metavar="N", help="Gaussians of the built-in room")
    made.add_argument("--width", type=int)
    made.add_argument("--height", type=int)
    made.add_argument("--dim", type=int, help="channels; a scene's own number if it is given")
    made.add_argument("--rounds", type=int, help="repeats of each side, default 20")
    made.add_argument("--threads", type=int, help="of every side, default 2")
    made.add_argument("--seed", type=int)
    made.add_argument("--quick", action="store_true", default=None, help="small, few rounds")
    made.add_argument("--workspace", metavar="DIR", help="its token cache and backbone weights")
    made.add_argument("--no-memory", dest="memory", action="store_false", default=None)
    made.add_argument("--view", type=int, metavar="I", help="by default a typical one")
    made.add_argument("--only", nargs="*", metavar="FIGURE")
    made.add_argument("--out", type=Path, metavar="FILE.json", help="where the JSON goes")
    return made


def setup_from(options: argparse.Namespace) -> Setup:
    """The settings of a command line (defaults < ``--quick`` < given); sets torch's threads."""
    names = {field.name for field in dataclasses.fields(Setup)}
    given = {k: v for k, v in vars(options).items() if k in names and v is not None}
    if given.get("scene"):
        given["scene"] = str(Path(given["scene"]).resolve())
    if given.get("workspace"):
        given["workspace"] = str(Path(given["workspace"]).resolve())
    if "only" in given:
        given["only"] = tuple(given["only"])
    made = Setup(**{**(QUICK if options.quick else {}), **given})
    torch.set_num_threads(made.threads)
    return made


def finish(result: dict[str, Any], out: Path | None) -> None:
    """Write the JSON if asked to, and print what the scene is and the table."""
    results.check(result)
    if out is not None:
        results.write(result, out)
    print(results.header(result))
    print(results.table([result]))
