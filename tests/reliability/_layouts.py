"""Captures and lists of data sets in which something is wrong by chance."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import torch

from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import matching_readers, read_capture
from fit3d_cli.datasets.base import load_dataset
from fit3d_cli.errors import CaptureError, DatasetError, ImageError
from tests.datasets.trees import TREES
from tests.reliability import _damage
from tests.reliability._judge import AREA, SLOWEST, SPARE, Judge, short_of_memory
from tests.reliability._trees import BINARY, JSON, Tree, write_trees
from tests.reliability.base import Outcome, Trial, check

FRAME = 1.0  # seconds: some of the photos have 640 x 480 pixels
KINDS = (CaptureError, ImageError)


@check(
    "captures",
    area=AREA,
    promise="A capture that is damaged or made to do harm is either read as a whole and consistent "
    "one or refused with one line that names it; lists of data sets likewise",
    goal="100,000 mutations of 14 layouts: typed errors only, <= 100 ms each",
)
def run_captures(trial: Trial) -> Outcome:
    outcome = Outcome()
    judge, frames = Judge(outcome, KINDS, SLOWEST), Judge(outcome, KINDS, FRAME)
    trees = write_trees(trial.folder / "captures")
    for tree in trees:  # what is imported or cached at first use is not the file's fault
        whole = read_capture(tree.root)
        for problem in wrong_with(whole):
            outcome.require(False, f"{tree.name} as written: {problem}")
        load_frame(whole.views[0], 8, 8)
    draw = trial.draw("captures")
    count = trial.size(95_000, 420)
    for number in range(count):
        tree = draw.choice(trees)
        harm = files_changed if draw.random() < 0.9 else tree_changed
        with harm(tree, draw) as what, short_of_memory(SPARE):
            look(judge, frames, f"{number}: {tree.name}, {what}", tree, draw)
    lists = Judge(outcome, (DatasetError,), SLOWEST)
    run_lists(lists, trial)
    outcome.figure = (
        f"{judge.ends.total():,} readings of {len(trees)} trees in {len({t.reader for t in trees})}"
        f" layouts ({judge.ends['read']:,} understood, {judge.ends['refused']:,} refused; worst "
        f"{judge.worst * 1000:.0f} ms), {frames.ends.total():,} of their frames, "
        f"{lists.ends.total():,} of lists of data sets (worst "
        f"{lists.worst * 1000:.0f} ms), {SPARE >> 20} MiB to spare"
    )
    return outcome


def look(judge: Judge, frames: Judge, what: str, tree: Tree, draw: Random) -> None:
    """Read a capture and what it promises; now and then by any reader, or a frame of it."""
    if draw.random() < 0.1:
        judge.call(f"{what}, sniffed", lambda: matching_readers(tree.root))
    reader = tree.reader if draw.random() < 0.9 else ""
    capture, _ = judge.call(what, lambda: read_capture(tree.root, reader))
    if not isinstance(capture, Capture):
        return
    for problem in wrong_with(capture):
        judge.outcome.require(False, f"{what}: {problem}")
    if draw.random() < 0.2:
        view = draw.choice(capture.views)
        frames.call(f"{what}, frame", lambda: load_frame(view, 8, 8))


def wrong_with(capture: Capture) -> Iterator[str]:
    """Promises of a capture that do not hold."""
    names = [view.name for view in capture.views]
    if len(names) < 2 or len(set(names)) < len(names):
        yield f"views {names}"
    for view in capture.views:
        path = Path(view.name)
        if path.is_absolute() or ".." in path.parts or "\0" in view.name:
            yield f"the name {view.name!r} leads out"
        rotation = view.viewmat[:3, :3]
        off = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
        if not bool(torch.isfinite(view.viewmat).all()) or float(off) > 1e-6:
            yield f"{view.name}: pose {view.viewmat.tolist()}"
        focal = float(view.K[0, 0]), float(view.K[1, 1])
        if not bool(torch.isfinite(view.K).all()) or min(focal) <= 0:
            yield f"{view.name}: intrinsics {view.K.tolist()}"
        if not view.image_path.is_file() or not 0 < view.width < 1 << 20:
            yield f"{view.name}: {view.image_path}, {view.width} wide"
    if capture.points is not None and not bool(torch.isfinite(capture.points.xyz).all()):
        yield "points that are not finite"


@contextmanager
def files_changed(tree: Tree, draw: Random) -> Iterator[str]:
    """One file that says how the capture is to be read, changed for the length of a block."""
    path = draw.choice(tree.files)
    whole = path.read_bytes()
    if tree.kind == BINARY:
        data = _damage.binary_of(whole, draw)
    elif draw.random() < 0.15:
        data = _damage.bytes_of(whole, draw)
    else:
        change = _damage.json_of if tree.kind == JSON else _damage.text_of
        data = change(whole.decode("utf-8"), draw).encode("utf-8", "surrogateescape")
    path.write_bytes(data)
    try:
        yield f"{path.name} changed"
    finally:
        path.write_bytes(whole)


@contextmanager
def tree_changed(tree: Tree, draw: Random) -> Iterator[str]:
    """One entry of the tree replaced by something that is no such file."""
    files = sorted(p for p in tree.root.rglob("*") if p.is_file())
    path = draw.choice([*tree.files, draw.choice(files)])
    kinds = ("gone", "folder", "pipe", "loop", "zeros", "empty", "other", "outside", "case", "deep")
    kind = draw.choice(kinds)
    aside = path.with_name(path.name + ".aside")
    twin = path.with_name(path.name.swapcase())
    path.rename(aside)
    try:
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("loop", "zeros", "outside"):
            path.symlink_to({"loop": path, "zeros": "/dev/zero", "outside": "/etc/passwd"}[kind])
        elif kind == "empty":
            path.touch()
        elif kind == "other":
            path.write_bytes(
                draw.choice([f for f in (*files[:1], aside) if f != path]).read_bytes()[::-1]
            )
        elif kind == "case":
            shutil.copy(aside, twin)
            shutil.copy(aside, path)
        elif kind == "deep":
            path.mkdir()
            (path / "more" / ("d" * 200) / ("e" * 200)).mkdir(parents=True)
        yield f"{path.name} is {kind}"
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "case" and twin != path:
            twin.unlink()
        aside.rename(path)


def run_lists(judge: Judge, trial: Trial) -> None:
    """The text files that name the pictures of a data set."""
    draw = trial.draw("lists")
    places = []
    for (task, name), write in TREES.items():
        root = trial.folder / "sets" / f"{name}-{task}"
        write(root)
        load_dataset(task, name, root)
        files = sorted(root.rglob("*.txt"))
        places += [(task, name, root, file) for file in files]
    for number in range(trial.size(5_000, 60)):
        task, name, root, path = draw.choice(places)
        whole = path.read_bytes()
        if draw.random() < 0.3:
            path.write_bytes(_damage.bytes_of(whole, draw))
        else:
            text = _damage.text_of(whole.decode(), draw)
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
        what = f"list {number}: {path.name} of {name}"
        with short_of_memory(SPARE):
            judge.call(what, lambda t=task, n=name, r=root: load_dataset(t, n, r))
        path.write_bytes(whole)
