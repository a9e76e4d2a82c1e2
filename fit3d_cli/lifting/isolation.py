"""Lifting in a process of its own, so that a scan that crashes or hangs costs no other scan."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from types import TracebackType

import torch

from fit3d_cli import storage
from fit3d_cli.capture.sources.find import Scan
from fit3d_cli.errors import Fit3dError, StorageError
from fit3d_cli.explain import EXIT_BUG, EXIT_USAGE
from fit3d_cli.lifting.process import Trouble, Worker
from fit3d_cli.lifting.results import Failed, LiftResult, named
from fit3d_cli.progress import OnEvent
from fit3d_cli.settings import LiftSettings
from fit3d_cli.workspace import Workspace


class WorkerTraceback(Exception):
    """What the worker raised, for people: the cause of the same failure here."""


class Isolated:
    """As ``Lifter``, in a worker process that is replaced when a scan has brought it down.

    Args:
        settings: How to lift.
        place: Where archives and caches go.
        device: ``auto``, ``cpu`` or ``cuda``; this process does not touch it.
        seed: Decides every random draw.

    Raises:
        Fit3dError: As ``Lifter``, or the worker ended before it had begun.
    """

    def __init__(self, settings: LiftSettings, place: Workspace, device: str, seed: int) -> None:
        self._settings, self._place = settings, place
        self._request = {
            "settings": settings.model_dump(mode="json"),
            "workspace": str(place.root),
            "device": device,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "level": logging.getLogger().getEffectiveLevel(),
        }
        try:
            self._worker: Worker | None = Worker(self._request)
        except Trouble as trouble:
            raise trouble.error from WorkerTraceback(trouble.words)

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        worker, self._worker = self._worker, None
        if worker is not None and kind is None:
            worker.close()
        elif worker is not None:
            worker.stop()
            self._place.sweep()

    def lift(self, scan: Scan, on_event: OnEvent) -> LiftResult | Failed:
        """Lift one scan; whatever is wrong with it is told, not raised.

        A scan that crashed, was killed, hung or ran out of memory is tried again in a fresh
        process, at most ``settings.retries`` times. What the failed attempts printed is kept in
        the workspace's ``logs``.
        """
        story: list[str] = []
        log = self._place.log_path(scan.name)
        for attempt in count(1):
            try:
                if self._worker is None:
                    self._worker = Worker(self._request)
                question = {**asdict(scan), "path": str(scan.path)}
                answer = self._worker.ask(question, on_event, self._settings.stall)
            except Trouble as trouble:
                failure = named(trouble.error, scan)
                if trouble.lost or failure.exit_code != EXIT_USAGE:
                    self._replace()
                if trouble.lost or failure.exit_code == EXIT_BUG:
                    story.append(f"attempt {attempt}: {failure}\n\n{trouble.words}\n")
                if not trouble.lost or attempt > self._settings.retries:
                    return _failed(failure, attempt, _keep(log, story))
                logging.getLogger(__name__).warning(
                    "%s: %s; trying again in a fresh process", failure.where, failure.what
                )
            else:
                with suppress(OSError):
                    log.unlink()  # of an earlier run
                return replace(LiftResult.from_json(answer), attempts=attempt)
        raise AssertionError("count has no end")

    def _replace(self) -> None:
        """End the worker, which may be in no state to go on, and clear up after it."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
        self._place.sweep()


def _failed(failure: Fit3dError, attempts: int, log: Path | None) -> Failed:
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    hint = f"{failure.hint}; see {log}" if log else failure.hint
    error = type(failure)(failure.what + tried, where=failure.where, hint=hint)
    error.exit_code = failure.exit_code
    return Failed(error, attempts, log)


def _keep(log: Path, story: list[str]) -> Path | None:
    """The log of a scan that failed, if there is anything to read in it."""
    try:
        if story:
            storage.write_text(log, "\n".join(story))
            return log
        log.unlink(missing_ok=True)
    except (StorageError, OSError):
        pass  # a full disk must not hide why the scan failed
    return None
