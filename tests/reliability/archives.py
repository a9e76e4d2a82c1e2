"""Hostile ``.f3d`` files and other tensor files: mutations, flips, bombs, versions."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from fit3d_cli import archive
from fit3d_cli.archive.schema import REMAKE_HINT
from fit3d_cli.errors import ArchiveError
from fit3d_cli.scene import Scene
from fit3d_cli.tensorfile import read_tensors
from tests.reliability._bombs import bombs
from tests.reliability._hunt import Bag, Prey, alone, apart, hunt, memory
from tests.reliability._sealed_files import sealed_preys
from tests.reliability._seeds import archives, big, extended
from tests.reliability._tensormutations import (
    Model,
    Mutator,
    framed,
    header_text,
    random_file,
    seal_archive,
)
from tests.reliability.base import Outcome, Trial, check

GOLDEN = Path(__file__).parents[1] / "golden"
_ROOM = 16 << 20
AREA = "Hostile and broken input"


def cores(trial: Trial) -> int:
    """Processes for a hunt: all cores for a whole one."""
    return len(os.sched_getaffinity(0)) if trial.whole else 1


READERS: tuple[Callable[[Path], Any], ...] = (
    archive.read_manifest,
    archive.describe,
    lambda path: archive.read_archive(path, verify="header"),
    archive.read_archive,
    lambda path: archive.read_archive(path, verify="full"),
    lambda path: read_tensors(path)[0],
)


def _judge(case: int, content: bytes, value: Any) -> str:
    """What this reader accepts the safetensors library accepts, with the same bytes."""
    theirs = {name: bytes(one["data"]) for name, one in safetensors.deserialize(content)}
    if isinstance(value, Scene):
        return unusable(value) or (
            "" if theirs["g.means"] == stored(value.gaussians.means) else "other means"
        )
    if isinstance(value, archive.Manifest):
        printed(value.provenance, [v for v in value.metrics.values() if v == v], value.name)
        return "" if value.tensors.keys() == theirs.keys() else "other tensors"
    if "kind" in value:  # a description
        printed(value)
        return "" if value["tensors"].keys() == theirs.keys() else "other tensors"
    if {name: stored(tensor) for name, tensor in value.items()} != theirs:
        return "other bytes"
    return ""


def printed(*values: Any) -> None:
    """Raises where a description could not be shown as JSON and as text."""
    json.dumps(values, allow_nan=False)
    json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogateescape")


def unusable(scene: Scene) -> str:
    """What a renderer could not use in a scene that was accepted."""
    own = scene.gaussians
    numbers = (own.means, own.quats, own.scales, own.opacities, own.sh, scene.features,
               scene.decoder.weight, scene.cameras.viewmats, scene.cameras.Ks)  # fmt: skip
    if not all(bool(tensor.isfinite().all()) for tensor in numbers):
        return "numbers that are not finite"
    if not bool((own.scales > 0).all() & (own.opacities >= 0).all() & (own.opacities <= 1).all()):
        return "scales or opacities out of range"
    if len(set(scene.names)) != len(scene.cameras) or scene.source.dim != len(scene.decoder.bias):
        return "names or channels that do not fit"
    os.fsencode("".join((scene.name, *scene.names)))
    printed(scene.provenance, [v for v in scene.metrics.values() if v == v])
    return ""


def stored(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def archive_prey(trial: Trial, random_from: int) -> Prey:
    """Mutated archives, and from a case on random files."""
    mutate = Mutator(archives(trial.folder), seal_archive, "f3d_manifest")

    def make(case: int) -> tuple[str, bytes]:
        draw = trial.draw("archive", case)
        return "a.f3d", mutate(draw) if case < random_from else random_file(draw)

    def read(case: int, path: Path) -> Any:
        return READERS[case % len(READERS)](path)

    return Prey(trial.folder, make, read, _judge, ArchiveError)


def told(outcome: Outcome, bag: Bag, name: str = "") -> Outcome:
    """The outcome with what a hunt found, under a name."""
    start = f"{name}: " if name else ""
    outcome.cases += bag.cases
    outcome.broken += [start + line for line in bag.broken]
    outcome.require(bag.accepted > 0, f"{start}nothing was read: the mutations reach nothing")
    outcome.figure = "; ".join(filter(None, (outcome.figure, start + bag.figure())))
    return outcome


@check(
    "archive-mutations",
    area=AREA,
    promise="A damaged or hostile `.f3d` is refused with one line, or read as a valid scene.",
    goal="10^6 structure-aware mutations of 6 files and 10^5 random files: typed errors only, "
    "each <= 100 ms, memory <= 2 x file + 16 MiB, what is accepted safetensors reads alike",
)
def archive_mutations(trial: Trial) -> Outcome:
    mutations = trial.size(1_000_000, 2000)
    randoms = trial.size(100_000, 200)
    prey = archive_prey(trial, mutations)
    return told(Outcome(), hunt(prey, range(mutations + randoms), workers=cores(trial)))


@check(
    "sealed-mutations",
    area=AREA,
    promise="A damaged checkpoint, token cache or weight file is noticed; none runs code.",
    goal="10^5 mutations of each: typed errors or exactly what was written, each <= 100 ms, "
    "memory <= 2 x file + 16 MiB",
)
def sealed_mutations(trial: Trial) -> Outcome:
    outcome = Outcome()
    for name, prey in sealed_preys(trial).items():
        bag = hunt(prey, range(trial.size(100_000, 300)), workers=cores(trial))
        outcome = told(outcome, bag, name)
    return outcome


@check(
    "archive-flips",
    area=AREA,
    promise="Every changed byte of an archive is found by `fit3d info --verify`, of its header on "
    "opening.",
    goal="each byte of a 64 KiB archive changed in 2 ways: 100 % found",
)
def archive_flips(trial: Trial) -> Outcome:
    content = big(trial.folder, 64 << 10)
    start = len(framed(header_text(content)))
    places = range(0, len(content), trial.size(1, 61))
    outcome = Outcome(len(places) * 2)

    def flip(share: range) -> list[str]:
        path = trial.folder / f"{share.start}.f3d"
        path.write_bytes(content)
        passed = []
        with path.open("r+b", buffering=0) as file:
            for at in share:
                for pattern in (1 << at % 8, trial.draw("flip", at).randrange(1, 256)):
                    os.pwrite(file.fileno(), bytes([content[at] ^ pattern]), at)
                    # What opening refuses, verification refuses: it begins with it.
                    read = archive.read_manifest if at < start else archive.verify_archive
                    if not refused(read, path):
                        passed.append(f"byte {at} of {len(content)} changed by {pattern}: read")
                os.pwrite(file.fileno(), content[at : at + 1], at)
        return passed if refused(archive.verify_archive, path) is False else ["refused when mended"]

    workers = cores(trial)
    shares = [places[k::workers] for k in range(workers)]
    for passed in apart([partial(flip, share) for share in shares]):
        outcome.broken += passed
    outcome.figure = (
        f"{len(content):,} bytes, header {start:,}; {outcome.cases:,} changes, "
        f"{len(outcome.broken)} not found"
    )
    return outcome


def refused(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a reader says that a file is damaged."""
    try:
        read(path)
    except ArchiveError:
        return True
    return False


@check(
    "archive-bombs",
    area=AREA,
    promise="A file that asks for more than it holds is refused before memory is taken for it.",
    goal=">= 40 hand-made bombs: each refused in <= 10 ms with <= 8 MiB",
)
def archive_bombs(trial: Trial) -> Outcome:
    made = bombs(trial.folder)
    outcome = Outcome(len(made))
    path = trial.folder / "bomb.f3d"
    slowest, largest = (0.0, ""), (0, "")
    good = trial.folder / "seed.f3d"

    def light() -> dict[str, Any]:
        archive.read_archive(good, verify="full")  # code and buffers that every reading needs
        base, spent = memory(reset=True), []
        for _ in range(5):
            began = time.process_time()
            try:
                archive.read_archive(path, verify="full")
            except ArchiveError as error:
                spent.append(time.process_time() - began)
                line = str(error).replace(str(path), "")
            else:
                return {"line": "", "spent": 0, "grown": 0}
        return {"line": line, "spent": min(spent), "grown": memory() - base}

    for name, make in made.items():
        make(path)
        try:
            seen = alone(light)
        except RuntimeError as error:
            outcome.broken.append(f"{name}: {error}")
            continue
        outcome.require(bool(seen["line"]), f"{name}: read")
        outcome.require(len(seen["line"]) <= 240, f"{name}: a message of {len(seen['line'])}")
        outcome.require(seen["spent"] <= 0.01, f"{name}: {seen['spent'] * 1e3:.1f} ms")
        outcome.require(seen["grown"] <= 8 << 20, f"{name}: {seen['grown'] / 2**20:.1f} MiB")
        slowest = max(slowest, (seen["spent"], name))
        largest = max(largest, (seen["grown"], name))
    outcome.figure = (
        f"{len(made)} bombs refused; slowest {slowest[0] * 1e3:.1f} ms ({slowest[1]}), "
        f"most memory {largest[0] / 2**20:.1f} MiB ({largest[1]})"
    )
    return outcome


@check(
    "archive-memory",
    area=AREA,
    promise="Reading an archive takes little more memory than the scene itself.",
    goal="at most 2 x file + 16 MiB for the whole scene, 16 MiB for its description",
)
def archive_memory(trial: Trial) -> Outcome:
    path = trial.folder / "big.f3d"
    size = len(big(trial.folder, trial.size(256, 16) << 20))
    outcome = Outcome(2)

    def grown(read: Callable[[Path], object]) -> int:
        archive.read_archive(GOLDEN / "scene-1.0.f3d")
        base = memory(reset=True)
        read(path)
        return memory() - base

    whole = alone(lambda: grown(archive.verify_archive))
    described = alone(lambda: grown(archive.describe))
    outcome.require(whole <= 2 * size + _ROOM, f"{whole / size:.2f} times the file for the scene")
    outcome.require(described <= _ROOM, f"{described >> 20} MiB to describe it")
    outcome.figure = (
        f"a file of {size / 2**20:.0f} MiB: {whole / 2**20:.0f} MiB for the scene "
        f"({whole / size:.2f} x), {described / 2**20:.1f} MiB to describe it"
    )
    return outcome


@check(
    "archive-versions",
    area=AREA,
    promise="Archives of every released format stay readable; of a newer one, what can be read is.",
    goal="golden archives read and written again to the same bytes; a newer minor version is read "
    "with a note, a newer major one refused with the fit3d that reads it",
)
def archive_versions(trial: Trial) -> Outcome:
    outcome = Outcome()

    def case(what: str, good: bool) -> None:
        outcome.cases += 1
        outcome.require(good, what)

    golden = sorted(GOLDEN.glob("scene-*.f3d"))
    case("no golden archives", bool(golden))
    path = trial.folder / "a.f3d"
    for file in golden:
        scene = archive.read_archive(file, verify="full")
        known = json.loads(file.with_suffix(".json").read_text("utf-8"))
        told_now = json.loads(json.dumps(archive.describe(file)))
        case(f"{file.name} is described otherwise", told_now == known["described"])
        means = scene.gaussians.means
        case(f"{file.name} holds other numbers", means.flatten().tolist() == known["means"])
        archive.write_archive(path, scene)
        case(f"{file.name} is written otherwise", path.read_bytes() == file.read_bytes())
    plain = golden[0].read_bytes()
    path.write_bytes(extended(plain, version="1.9999"))
    case("a newer minor version without a note",
         archive.describe(path)["notes"] == ["format 1.9999, this fit3d knows 1.0"])  # fmt: skip
    features = archive.read_archive(path, verify="full").features
    case("a newer minor version with other features",
         torch.equal(features, archive.read_archive(golden[0]).features))  # fmt: skip
    for version, reader, hint in (
        ("2.0", "9.1.0", "install fit3d 9.1.0 or newer"),
        ("17.3", "../../x y", "install a newer fit3d"),
        ("9999.0", "", "install a newer fit3d"),
        ("0.9", "0.1.0", REMAKE_HINT),
        ("01.0", "0.1.0", REMAKE_HINT),
        ("1.\u0663", "0.1.0", REMAKE_HINT),
    ):
        model = Model.parse(extended(plain, version=version))
        model.metadata["f3d_min_reader"] = reader
        path.write_bytes(model.raw())
        case(f"format {version} is read", refusal(path) == hint)
    swapped = alone(lambda: [setattr(sys, "byteorder", "big"), refusal(golden[0])][1])
    case("a big-endian machine reads it", swapped == "use a little-endian machine")
    outcome.figure = (
        f"{len(golden)} golden archive, {outcome.cases} cases, {len(outcome.broken)} wrong"
    )
    return outcome


def refusal(path: Path) -> str:
    """What the user is told to do; "" where the file was read."""
    try:
        archive.read_archive(path)
    except ArchiveError as error:
        return error.hint
    return ""
