"""The same command under other orders, places, languages and permissions."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from fit3d_cli.rooms import write_room
from tests.faults.world import SMALL, write_model
from tests.reliability._shuffled import PLANTS
from tests.reliability._traced import ROOT, saver
from tests.reliability.base import Outcome, Trial, check

SIZES = ((48, 32), (64, 48), (48, 32))
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati")


def locales() -> list[str]:
    """Those of this machine, one of each language that it has."""
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    wanted = ("de_DE", "tr_TR", "fr_FR", "ja_JP")
    return ["C", "C.UTF-8", *(next(filter(lambda k: k.startswith(w), known), "") for w in wanted)]


@check(
    "same-bytes",
    area="Concurrency",
    promise="The same command makes the same bytes, in whatever order a directory is listed and "
    "wherever, in whichever language, time zone and umask it runs.",
    goal="10 runs of lift, finetune and probe: identical sha256 of every archive, model file and "
    "report",
)
def same_bytes(trial: Trial) -> Outcome:
    outcome = Outcome()
    folder = trial.folder
    (folder / "small.toml").write_text(SMALL)
    write_model(folder / "tiny", 1)
    for number in range(trial.size(3, 1)):
        width, height = SIZES[number]
        write_room(folder / f"rooms/room-{number}", number, views=4, width=width, height=height)
    for split in ("train", "test"):
        write_room(folder / f"probed/{split}/room-0", 9, views=3, width=48, height=32)
    languages = [name for name in locales() if name]
    seen: dict[str, set[str]] = {}
    for number in range(trial.size(10, 2)):
        how = variation(trial, number, languages)
        made = run(trial, number, how, outcome)
        for name, digest in made.items():
            seen.setdefault(name, set()).add(digest)
        outcome.require(made.keys() == seen.keys(), f"other files with {how}")
        outcome.cases += 1
    different = sorted(name for name, digests in seen.items() if len(digests) > 1)
    for name in different:
        outcome.require(False, f"{name} has {len(seen[name])} contents")
    for suffix in (".f3d", "model.safetensors", *(["reports/*.json"] if trial.whole else [])):
        outcome.require(any(fnmatch(n, f"*{suffix}") for n in seen), f"no {suffix} was made")
    if trial.whole:
        blind = unseen(trial, languages, outcome)
        outcome.require(not blind, f"planted, and not found: {blind}")
    outcome.figure = (
        f"{outcome.cases} runs, {len(seen)} files each: {len(different)} with other bytes (hash "
        f"seed, shuffled directories, directory, {min(len(ZONES), outcome.cases)} time zones, "
        f"{min(len(languages), outcome.cases)} locales, umask, 1 and 2 loader threads, "
        "isolated or not)"
    )
    if trial.whole:
        outcome.figure += f"; {len(PLANTS)} planted defects, {len(PLANTS) - len(blind)} found"
    return outcome


def unseen(trial: Trial, languages: list[str], outcome: Outcome) -> list[str]:
    """Planted defects that make no difference between two runs."""
    found: dict[str, set[str]] = {name: set() for name in PLANTS}
    for number in (101, 104):  # unlike in everything; both lift in their own process
        how = variation(trial, number, languages)
        made = run(trial, number, how, outcome, tuple(PLANTS))
        for name in PLANTS:
            found[name].add(made.get(f"out/{name}/scenes/room-0.f3d", ""))
    return [name for name, digests in found.items() if len(digests) < 2]


def variation(trial: Trial, number: int, languages: list[str]) -> dict[str, Any]:
    """What is unlike in a run; the first is as users find it."""
    draw = trial.draw("order", number)
    return {
        "hash": str(draw.randrange(1, 1 << 32)),
        "shuffle": draw.randrange(1, 1 << 30) if number else 0,
        "zone": ZONES[number % len(ZONES)],
        "locale": languages[number % len(languages)],
        "umask": (0o022, 0o077)[number % 2],
        "workers": 1 + number % 2,
        "isolate": "always" if trial.whole and number % 3 == 0 else "never",
    }


def run(
    trial: Trial, number: int, how: dict[str, Any], outcome: Outcome, plants: Sequence[str] = ()
) -> dict[str, str]:
    """Every command once, in another directory; sha256 of what it made.

    Args:
        trial: The trial.
        number: Of the run.
        how: What is unlike in it.
        outcome: Where failures go.
        plants: Lift only, with each of these defects.
    """
    folder = trial.folder
    here = folder / f"run-{number}" / ("deep/er" if number % 2 else "")
    here.mkdir(parents=True)
    inputs = os.path.relpath(folder, here) if number % 2 else str(folder)

    def common(workspace: str = "out") -> list[str]:
        return ["--profile", f"{inputs}/small.toml", "--workspace", workspace, "-q",
                "--device", "cpu"]  # fmt: skip

    # Only what is lifted in this process finds its folders shuffled.
    lift = ["lift", "--backbone", f"{inputs}/tiny", "--set", f"lift.isolate={how['isolate']}"]
    if plants:
        lines = [[*lift, f"{inputs}/rooms/room-0", *common(f"out/{name}")] for name in plants]
    else:
        lines = [
            [*lift, f"{inputs}/rooms", *common()],
            ["finetune", *common(), "--set", f"finetune.workers={how['workers']}"],
        ]
    if trial.whole and not plants:
        lines.append(["probe", "depth", "rooms", "--data", f"{inputs}/probed", *common()])
    job = {"here": str(here), "shuffle": how["shuffle"], "umask": how["umask"], "lines": lines,
           "plants": list(plants)}  # fmt: skip
    if number:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": how["hash"],
            "TZ": how["zone"], "LC_ALL": how["locale"], "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        program = ROOT / "tests/reliability/_shuffled.py"
        ended = subprocess.run(
            [sys.executable, str(program), json.dumps(job)], env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        code, said = ended.returncode, ended.stderr.strip()[-300:]
    else:  # saves the time to import everything
        module = "tests.reliability._shuffled"
        code, said = saver().wait(saver().start(**{**job, "do": "call", "module": module})), ""
    outcome.require(code == 0, f"{how}: ended {code}: {said}")
    files = [path for path in sorted((here / "out").rglob("*")) if path.is_file()]
    return {
        path.relative_to(here).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
