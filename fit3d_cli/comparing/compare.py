"""``fit3d compare``: gathers models, photos and reports, writes pictures and the page."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fit3d_cli.capture.photos import Photos, photos_of_path
from fit3d_cli.comparing.inputs import (
    load_reports,
    photos_of_scene,
    photos_of_workspace,
    scene_rows,
)
from fit3d_cli.comparing.models import Pair, load_pair, load_two
from fit3d_cli.comparing.page import PageFacts, write_report
from fit3d_cli.comparing.pictures import FeaturePicture, compare_pictures
from fit3d_cli.comparing.views import heldout_views
from fit3d_cli.device import resolve_device
from fit3d_cli.images import save_png
from fit3d_cli.pages.reproduce import machine, probe_command
from fit3d_cli.pages.verdict import summary_rows, task_title
from fit3d_cli.progress import OnEvent, ignore
from fit3d_cli.report import Report
from fit3d_cli.settings import CompareSettings
from fit3d_cli.storage import require_writable
from fit3d_cli.viz.sharing import file_names
from fit3d_cli.workspace import Workspace


@dataclass(frozen=True)
class Compared:
    """What ``compare`` wrote.

    Attributes:
        page: The HTML file.
        files: Side-by-side PNGs, one per photo.
        pictures: What they show.
        base: Name of the first model.
        tuned: Name of the second model.
        summary: ``verdict.summary_rows`` of the reports.
        remarks: What a reader must know.
    """

    page: Path
    files: tuple[Path, ...]
    pictures: tuple[FeaturePicture, ...]
    base: str
    tuned: str
    summary: tuple[Mapping[str, Any], ...]
    remarks: tuple[str, ...]


def compare(
    subjects: Sequence[str],
    settings: CompareSettings,
    *,
    workspace: Path,
    device: str = "auto",
    seed: int = 0,
    captures: Path | None = None,
    differences: Mapping[str, Any] | None = None,
    command: str = "fit3d compare",
    on_event: OnEvent = ignore,
) -> Compared:
    """Put a tuned model beside its base.

    Args:
        subjects: Nothing (photos of the workspace's scenes), two models, or one picture, folder
            or ``.f3d`` scene.
        settings: Of the verb.
        workspace: Results go to its ``compare/``.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Of PCA samples and k-means.
        captures: Where the scenes' photos lie, if they were moved.
        differences: Settings that differ from the defaults, for the page.
        command: The command line, for the page.
        on_event: Progress listener.

    Returns:
        The files and figures.

    Raises:
        Fit3dError: A model, photo or scene is missing or damaged, or nothing can be written.
    """
    home = Workspace(workspace)
    out = workspace / "compare"
    target = str(resolve_device(device))
    photos, remarks = _photos(subjects, settings.images, home, captures)
    if len(subjects) == 2:
        weights = settings.backbone.weights
        pair = load_two(subjects[0], subjects[1], home, weights=weights, device=target)
    else:
        pair = load_pair(home, settings.backbone, tuned=settings.tuned, device=target)
    require_writable(out)
    pictures = compare_pictures(
        photos.paths, pair.base, pair.tuned,
        width=settings.backbone.width, batch=settings.backbone.batch, clusters=settings.clusters,
        names=photos.names, groups=photos.groups or None, seed=seed, on_event=on_event,
    )  # fmt: skip
    files = tuple(out / name for name in file_names(photos.names))
    for file, picture in zip(files, pictures, strict=True):
        save_png(file, picture.sheet())
    reports, about_reports = load_reports(home.reports_dir, pair)
    scenes, lifted, about_scenes = scene_rows(home.scene_paths())
    views, about_views = heldout_views(
        _subject_scenes(subjects, home), pair.base, pair.tuned, home,
        captures=captures, on_event=on_event,
    )  # fmt: skip
    cautions = (*pair.remarks, *(f"{task_title(r)}: {c}." for r in reports for c in r.cautions))
    remarks = (*remarks, *about_reports, *about_scenes, *about_views)
    facts = PageFacts(
        base=pair.base.name,
        tuned=pair.tuned.name,
        scenes=scenes,
        views=views,
        history=pair.history,
        settings=differences or {},
        lift=lifted,
        finetune=pair.settings,
        commands=(*_probes(reports, pair), command),
        cautions=cautions,
        remarks=remarks,
        facts={
            "base weights": pair.base.weights_sha256[:12],
            "tuned weights": pair.tuned.weights_sha256[:12],
            "seed": str(seed),
            "torch": torch.__version__,
            "Python": platform.python_version(),
            "on": machine(torch.device(target)),
        },
    )
    page = write_report(out / "index.html", reports, pictures, facts)
    return Compared(
        page, files, pictures, pair.base.name, pair.tuned.name,
        tuple(summary_rows(reports)), (*cautions, *remarks),
    )  # fmt: skip


def _photos(
    subjects: Sequence[str], count: int, workspace: Workspace, captures: Path | None
) -> tuple[Photos, tuple[str, ...]]:
    if len(subjects) != 1:
        return photos_of_workspace(workspace, count, captures)
    path = Path(subjects[0])
    if path.suffix.lower() == ".f3d":
        return photos_of_scene(path, workspace, captures).spread(count), ()
    return photos_of_path(path).spread(count), ()


def _subject_scenes(subjects: Sequence[str], workspace: Workspace) -> list[Path]:
    """Scenes whose held-out views are looked at: the one that is named, or the workspace's."""
    if len(subjects) == 1:
        path = Path(subjects[0])
        return [path] if path.suffix.lower() == ".f3d" else []
    return workspace.scene_paths()


def _probes(reports: Sequence[Report], pair: Pair) -> list[str]:
    """The command lines that make these reports again, with the tuned model named."""
    name = pair.tuned.name if pair.settings else ""
    return [
        probe_command(r, {"--tuned": name} if any(row.model == "tuned" for row in r.rows) else {})
        for r in reports
    ]
