"""Camera poses of photos: structure from motion with pycolmap, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.progress import OnEvent, Progress

WORKER = [sys.executable, "-m", "fit3d_cli.capture.sources.sfm_worker"]
_LOOK_EVERY = 0.5  # seconds between two looks at how far pycolmap is
_ALL_PAIRS_UP_TO = 80  # photos; 3160 pairs take about as long to match as 80 to be mapped
_NEIGHBOURS = 10
_ANCHORS = 30
# Which table of COLMAP's database grows in which stage.
_TABLES = {"features": "keypoints", "matches": "two_view_geometries"}
_STAGES = {"features": "features", "matches": "matching pairs", "poses": "poses"}


@dataclass(frozen=True)
class Lens:
    """Photos that share a lens.

    Attributes:
        names: Their names in the folder of photos.
        model: COLMAP's camera model.
        single: False: each has its own parameters.
    """

    names: list[str]
    model: str
    single: bool


@dataclass(frozen=True)
class Poses:
    """What structure from motion found.

    Attributes:
        registered: Names of the photos that got a pose, sorted.
        error: Mean reprojection error, pixels; 0 without a model.
        points: Number of sparse points.
        models: Photos in each model, largest first.
        features: Number of features per photo.
        inliers: Verified matches per pair of photos, names in order.
    """

    registered: list[str]
    error: float = 0.0
    points: int = 0
    models: list[int] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    inliers: dict[tuple[str, str], int] = field(default_factory=dict)


def require_pycolmap(path: Path) -> None:
    """Refuse to start without the optional dependency.

    Raises:
        EnvironmentFault: pycolmap is not installed.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise EnvironmentFault(
            "photos without poses need pycolmap", where=path, hint="pip install 'fit3d[sfm]'"
        )


def choose_pairs(names: list[str], matcher: str) -> list[tuple[str, str]]:
    """Which photos are matched with which.

    ``sequential``: each with its next 10, then with those 16, 32, ... ahead; and about 30 evenly
    spread photos with one another, so that a path that comes back closes its loop without a
    vocabulary tree, which would have to be downloaded. ``exhaustive``: all with all. ``auto``:
    exhaustive up to 80 photos.

    Args:
        names: In the order in which they were taken.
        matcher: ``auto``, ``exhaustive`` or ``sequential``.
    """
    count = len(names)
    if matcher == "exhaustive" or (matcher == "auto" and count <= _ALL_PAIRS_UP_TO):
        return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    steps = list(range(1, _NEIGHBOURS + 1))
    steps += [2**i for i in range(4, max(4, count.bit_length()))]
    pairs = {(i, i + step) for step in steps for i in range(count - step)}
    anchors = sorted({count * k // _ANCHORS for k in range(_ANCHORS)})
    pairs |= {(i, j) for i in anchors for j in anchors if i < j}
    return [(names[i], names[j]) for i, j in sorted(pairs)]


def find_poses(
    images: Path,
    lenses: list[Lens],
    pairs: list[tuple[str, str]],
    model: Path,
    *,
    renamed: dict[str, str],
    max_side: int,
    seed: int,
    label: str,
    on_event: OnEvent,
) -> Poses:
    """Find the poses of photos and write the largest model.

    Args:
        images: Folder of the photos.
        lenses: Every photo, by lens.
        pairs: Photos to match.
        model: Folder to make and to fill with the COLMAP model.
        renamed: What the model shall call each photo.
        max_side: Longest side in pixels in which features are found.
        seed: Of every random draw.
        label: Begins the names of the stages.
        on_event: Told about progress.

    Raises:
        EnvironmentFault: pycolmap is not installed, crashed or ran out of memory.
    """
    require_pycolmap(images)
    images, model = images.absolute(), model.absolute()
    with tempfile.TemporaryDirectory(prefix="fit3d-sfm-", dir=model.parent) as scratch:
        database, listed = Path(scratch) / "database.db", Path(scratch) / "pairs.txt"
        listed.write_text("".join(f"{a} {b}\n" for a, b in pairs), "utf-8")
        request = {
            "database": str(database),
            "images": str(images),
            "pairs": str(listed),
            "model": str(Path(scratch) / "best"),
            "groups": [{"names": x.names, "model": x.model, "single": x.single} for x in lenses],
            "names": renamed,
            "max_side": max_side,
            "seed": seed,
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1,
        }
        found = _ask(request, database, images, label, on_event)
        if found["registered"]:
            (Path(scratch) / "best").rename(model)
    return Poses(
        found["registered"],
        float(found.get("error", 0.0)),
        int(found.get("points", 0)),
        found["models"],
        found["features"],
        {(min(a, b), max(a, b)): count for a, b, count in found["inliers"]},
    )


def _ask(
    request: dict[str, Any], database: Path, where: Path, label: str, on_event: OnEvent
) -> dict[str, Any]:
    """Run the worker to its end; it never outlives this call."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            # Python 3.10 does not know PYTHONSAFEPATH: it would import from where the user is.
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment,
            cwd=database.parent,
        )  # fmt: skip
        try:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):  # it died at once: its exit code and last words follow
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            result = _listen(process.stdout, database, label, on_event)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        if result is not None:
            return result
        log.seek(0)
        words = [
            line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()
        ]
    why = f"signal {-code}" if code < 0 else words[-1].strip() if words else f"exit code {code}"
    raise EnvironmentFault(
        f"pycolmap stopped ({why})",
        where=where,
        hint="try again with --set lift.source.max_side=800; if it stays, pip install -U pycolmap",
    )


def _listen(
    stream: IO[bytes], database: Path, label: str, on_event: OnEvent
) -> dict[str, Any] | None:
    """Pass on progress until the result comes or the stream ends."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        with suppress(ValueError, OSError):  # closed from the other thread
            for line in stream:
                lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    stage, done, total = "", 0, 0
    while True:
        try:
            line = lines.get(timeout=_LOOK_EVERY)
        except queue.Empty:
            count = _count(database, _TABLES.get(stage, ""))
            if done < count < total:
                done = count
                on_event(Progress(f"{label}: {_STAGES[stage]}", done, total))
            continue
        if not line:
            return None
        message = json.loads(line)
        if "result" in message:
            result: dict[str, Any] = message["result"]
            return result
        stage, done, total = message["stage"], message["done"], message["total"]
        on_event(Progress(f"{label}: {_STAGES[stage]}", done, total))


def _count(database: Path, table: str) -> int:
    """Rows of a table of a database that another process is filling; 0 when it is busy."""
    if not table:
        return 0
    try:
        address = f"file:{quote(str(database.resolve()))}?mode=ro"
        opened = sqlite3.connect(address, uri=True, timeout=0.1)
        try:
            return int(opened.execute(f"select count(*) from {table}").fetchone()[0])
        finally:
            opened.close()
    except sqlite3.Error:
        return 0
