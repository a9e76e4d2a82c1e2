"""``lift``: captures, or what becomes one, in; archives out.

A scene is done when its archive verifies and carries the digest of everything that decides its
content. Geometry and tokens are cached by content, so a run that was killed goes on where it was,
and another ``--dim`` or backbone does not fit the geometry again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from fit3d_cli import storage
from fit3d_cli.archive import describe, verify_archive, write_archive
from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import capture_digest, read_capture, spread
from fit3d_cli.capture.sources.base import SourceOptions
from fit3d_cli.capture.sources.facts import source_figures
from fit3d_cli.capture.sources.find import Scan, check_names, find_scans
from fit3d_cli.capture.sources.prepare import prepare_source
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import ArchiveError, Fit3dError
from fit3d_cli.lifting.checks import check_dim, check_shapes, check_storable
from fit3d_cli.lifting.making import Job, make_scene, prepare
from fit3d_cli.lifting.start import check_ply
from fit3d_cli.progress import OnEvent, Progress, one_of
from fit3d_cli.settings import LiftSettings
from fit3d_cli.splat.backends import splat_device
from fit3d_cli.workspace import Workspace


@dataclass(frozen=True)
class LiftResult:
    """What became of one capture.

    Attributes:
        name: Scene name.
        path: The archive, or None if it failed.
        gaussians: Number of Gaussians.
        psnr_heldout: dB over the held-out views; NaN without held-out views.
        feature_cosine_heldout: Cosine of decoded renders to the backbone's tokens; NaN likewise.
        seconds: Wall time of this run.
        skipped: True if the archive was there already.
        error: Why it failed, one line, or None.
        exit_code: What that means to the command line; 0 without an error.
        metrics: Everything that was measured.
        notes: What the user should know of the capture.
        source: Figures of the source that was made a capture, e.g. ``registered``.
    """

    name: str
    path: Path | None = None
    gaussians: int = 0
    psnr_heldout: float = float("nan")
    feature_cosine_heldout: float = float("nan")
    seconds: float = 0.0
    skipped: bool = False
    error: str | None = None
    exit_code: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: Mapping[str, float] = field(default_factory=dict)


def lift_captures(
    paths: list[Path],
    settings: LiftSettings,
    *,
    workspace: Path,
    device: str,
    seed: int,
    on_event: OnEvent,
) -> list[LiftResult]:
    """Lift every capture; one that fails does not stop the others.

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
    target, splats = resolve_device(device), splat_device(device)
    backbone = load_backbone(
        settings.backbone.name, weights=settings.backbone.weights, device=target
    )
    check_dim(settings.features.dim, backbone)
    place.sweep()
    results = []
    for number, scan in enumerate(scans, 1):
        began = time.monotonic()
        told = one_of(on_event, number, len(scans))
        try:
            result = _lift_one(scan, settings, place, backbone, target, splats, seed, told)
        except Fit3dError as error:
            if len(scans) == 1:
                raise
            result = LiftResult(
                scan.name, error=str(error), exit_code=error.exit_code,
                seconds=time.monotonic() - began,
            )  # fmt: skip
        results.append(result)
    return results


def _where(settings: LiftSettings) -> str:
    """The weight file or model directory that was named, or an empty string."""
    name, weights = settings.backbone.name, settings.backbone.weights
    directory = Path(name).expanduser()
    return weights or (str(directory) if name not in BACKBONES and directory.is_dir() else "")


def _lift_one(
    scan: Scan,
    settings: LiftSettings,
    place: Workspace,
    backbone: Backbone,
    device: torch.device,
    splats: torch.device,
    seed: int,
    on_event: OnEvent,
) -> LiftResult:
    began = time.monotonic()
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
    job = Job(capture, digest, settings, place, backbone, device, splats, seed, on_event)
    plan = job.plan()
    path = place.scene_path(name)
    finished = _finished(path, plan)
    if finished is not None:
        _remember(place, name, root, backbone, settings)
        return _told(finished, capture)
    # Every photo is decoded before the first result is written: bad input leaves no trace.
    fit = prepare(job)
    _remember(place, name, root, backbone, settings)
    with storage.locked(path):
        finished = _finished(path, plan)  # by another process, meanwhile
        if finished is not None:
            return finished
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


def _told(result: LiftResult, capture: Capture) -> LiftResult:
    """The result with what is worth knowing of its capture."""
    dropped = tuple(f"{count} photos left out: {why}" for why, count in capture.dropped.items())
    return replace(result, notes=(*capture.notes, *dropped), source=source_figures(capture.root))


def _remember(
    place: Workspace, name: str, root: Path, backbone: Backbone, settings: LiftSettings
) -> None:
    place.remember_capture(name, root)
    place.remember_backbone(backbone.weights_sha256, _where(settings))


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
