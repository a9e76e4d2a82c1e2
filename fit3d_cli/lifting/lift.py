"""``lift``: captures, or what becomes one, in; archives out.

A scene is done when its archive verifies and carries the digest of everything that decides its
content. Geometry and tokens are cached by content, so a run that was killed goes on where it was,
and another ``--dim`` or backbone does not fit the geometry again.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from fit3d_cli import storage
from fit3d_cli.capture.sources.find import check_names, find_scans
from fit3d_cli.lifting.isolation import Isolated
from fit3d_cli.lifting.lifter import Lifter
from fit3d_cli.lifting.results import Failed, LiftResult
from fit3d_cli.lifting.start import check_ply
from fit3d_cli.progress import OnEvent, one_of
from fit3d_cli.settings import LiftSettings
from fit3d_cli.workspace import Workspace

__all__ = ["LiftResult", "lift_captures"]


def lift_captures(
    paths: list[Path],
    settings: LiftSettings,
    *,
    workspace: Path,
    device: str,
    seed: int,
    on_event: OnEvent,
) -> list[LiftResult]:
    """Lift every capture; one that fails, or crashes the process, does not stop the others.

    Several captures are lifted in a process of their own (``settings.isolate``).

    Args:
        paths: Captures, files and folders that become one, or folders of them.
        settings: How to lift.
        workspace: Where archives and caches go.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides every random draw.
        on_event: Told about progress.

    Raises:
        Fit3dError: Nothing could be started (bad paths, backbone, workspace); with a single
            capture also what went wrong with it.
    """
    scans = [scan for path in paths for scan in find_scans(path, settings.reader)]
    check_names(scans)
    place = Workspace(workspace)
    check_ply(settings.geometry, len(scans))
    for folder in (place.root / "scenes", place.cache_dir, place.root / "captures"):
        storage.require_writable(folder)
    alone = len(scans) == 1
    isolate = settings.isolate == "always" or (settings.isolate == "auto" and not alone)
    results = []
    with ExitStack() as stack:
        lifter: Lifter | Isolated
        if isolate:
            lifter = stack.enter_context(Isolated(settings, place, device, seed))
        else:
            lifter = Lifter(settings, place, device, seed)
        place.sweep()
        for number, scan in enumerate(scans, 1):
            began = time.monotonic()
            outcome = lifter.lift(scan, one_of(on_event, number, len(scans)))
            if isinstance(outcome, Failed):
                if alone:
                    raise outcome.error
                outcome = outcome.result(scan, time.monotonic() - began)
            results.append(outcome)
    return results
