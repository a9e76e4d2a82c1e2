"""One scan after the other with one backbone, in this process."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from fit3d_cli import storage
from fit3d_cli.archive import describe, verify_archive, write_archive
from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import capture_digest, read_capture, spread
from fit3d_cli.capture.sources.base import SourceOptions
from fit3d_cli.capture.sources.facts import source_figures
from fit3d_cli.capture.sources.find import Scan
from fit3d_cli.capture.sources.prepare import prepare_source
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import ArchiveError, Fit3dError
from fit3d_cli.lifting.checks import check_dim, check_shapes, check_storable
from fit3d_cli.lifting.making import Job, make_scene, prepare
from fit3d_cli.lifting.preflight import LESS, lift_sizes
from fit3d_cli.lifting.results import Failed, LiftResult
from fit3d_cli.preflight import require
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import LiftSettings
from fit3d_cli.splat.backends import splat_device
from fit3d_cli.workspace import Workspace


class Lifter:
    """Makes archives of scans.

    Args:
        settings: How to lift.
        place: Where archives and caches go.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides every random draw.

    Raises:
        Fit3dError: The device is absent, or the backbone cannot be had or does not fit.
    """

    def __init__(self, settings: LiftSettings, place: Workspace, device: str, seed: int) -> None:
        self._settings, self._place, self._seed = settings, place, seed
        self._device, self._splats = resolve_device(device), splat_device(device)
        self._backbone = load_backbone(
            settings.backbone.name, weights=settings.backbone.weights, device=self._device
        )
        check_dim(settings.features.dim, self._backbone)

    def lift(self, scan: Scan, on_event: OnEvent) -> LiftResult | Failed:
        """Lift one scan; whatever is wrong with it is told, not raised."""
        try:
            return self._lift(scan, on_event)
        except Exception as error:
            if not isinstance(error, Fit3dError):
                logging.getLogger(__name__).info("%s failed", scan.name, exc_info=error)
            return Failed(error)

    def _lift(self, scan: Scan, on_event: OnEvent) -> LiftResult:
        began = time.monotonic()
        settings, place, seed = self._settings, self._place, self._seed
        name, root, reader = scan.name, scan.path, settings.reader
        if scan.source:
            root, reader = place.made_capture(name), ""
            options = SourceOptions(**settings.source.model_dump(), seed=seed)
            prepare_source(scan.path, scan.source, root, options, on_event)
        on_event(Progress(f"{name}: read capture", 0, 1))
        capture = spread(read_capture(root, reader, name), settings.max_views)
        check_storable(capture)
        check_shapes(capture)
        digest = capture_digest(capture)
        job = Job(
            capture, digest, settings, place, self._backbone, self._device, self._splats, seed,
            on_event,
        )  # fmt: skip
        plan = job.plan()
        path = place.scene_path(name)
        finished = _finished(path, plan)
        if finished is not None:
            self._remember(name, root)
            return _told(finished, capture)
        self._check_needs(capture)
        # Every photo is decoded before the first result is written: bad input leaves no trace.
        fit = prepare(job)
        self._remember(name, root)

        def waiting(holder: str) -> None:
            on_event(Progress(f"{name}: waiting", 0, 0, f"being written by {holder}"))

        with storage.locked(path, blocking=True, on_wait=waiting):
            finished = _finished(path, plan)  # by another process, meanwhile
            if finished is not None:
                return _told(finished, capture)
            scene = make_scene(job, fit)
            write_archive(path, scene)
        result = LiftResult(
            name,
            path,
            len(scene.gaussians),
            scene.metrics.get("psnr", float("nan")),
            scene.metrics.get("feature_cosine", float("nan")),
            time.monotonic() - began,
            metrics=scene.metrics,
        )
        return _told(result, capture)

    def _check_needs(self, capture: Capture) -> None:
        views = [(view.width, view.height) for view in capture.views]
        backbone, gpu = self._backbone, self._splats.type == "cuda"
        sizes = lift_sizes(views, self._settings, backbone.patch_size, backbone.dim)
        require(
            sizes.needs(gpu=gpu), where=capture.name, disk=self._place.root, less=LESS,
            gpu=str(self._splats) if gpu else "",
        )  # fmt: skip

    def _remember(self, name: str, root: Path) -> None:
        self._place.remember_capture(name, root)
        self._place.remember_backbone(self._backbone.weights_sha256, self._where())

    def _where(self) -> str:
        """The weight file or model directory that was named, or an empty string."""
        name, weights = self._settings.backbone.name, self._settings.backbone.weights
        directory = Path(name).expanduser()
        return weights or (str(directory) if name not in BACKBONES and directory.is_dir() else "")


def _told(result: LiftResult, capture: Capture) -> LiftResult:
    """The result with what is worth knowing of its capture."""
    dropped = tuple(f"{count} photos left out: {why}" for why, count in capture.dropped.items())
    return replace(result, notes=(*capture.notes, *dropped), source=source_figures(capture.root))


def _finished(path: Path, plan: str) -> LiftResult | None:
    """The archive of an earlier run, if it is whole and was made from the same inputs."""
    if not path.is_file():
        return None
    try:
        verify_archive(path)
        described = describe(path)
    except ArchiveError:
        return None
    if described["provenance"].get("plan") != plan:
        return None
    metrics = described["metrics"]
    return LiftResult(
        described["name"], path, described["gaussians"], metrics.get("psnr", float("nan")),
        metrics.get("feature_cosine", float("nan")), skipped=True, metrics=metrics,
    )  # fmt: skip
