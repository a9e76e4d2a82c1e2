"""What there is to look at: photos, reports and scenes of a workspace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fit3d_cli.archive import describe, read_archive
from fit3d_cli.capture.photos import Photos
from fit3d_cli.capture.read import read_capture
from fit3d_cli.comparing.models import Pair
from fit3d_cli.errors import ArchiveError, Fit3dError, ImageError, SettingsError
from fit3d_cli.report import Report
from fit3d_cli.workspace import Workspace

_DIGEST = re.compile(r"weights sha256 ([0-9a-f]{12})")


def photos_of_scene(archive: Path, workspace: Workspace, captures: Path | None = None) -> Photos:
    """The held-out photos of a lifted scene; all of its photos if it has no held-out view.

    Args:
        archive: The ``.f3d`` file.
        workspace: Remembers where the capture lies.
        captures: Where it lies now.

    Raises:
        ArchiveError: Not a readable archive.
        CaptureError: The capture is not where it should be, or lacks the photos.
    """
    scene = read_archive(archive, features=False, sh=False)
    root = workspace.capture_dir(scene.name, captures)
    by_name = {view.name: view.image_path for view in read_capture(root).views}
    wanted = [scene.names[i] for i in scene.views(heldout=True)] or list(scene.names)
    found = [name for name in wanted if name in by_name]
    if not found:
        raise ImageError(
            f"none of the {len(wanted)} photos of {scene.name} is here",
            where=root,
            hint="name the right folder with --captures",
        )
    return Photos(
        tuple(by_name[name] for name in found),
        tuple(f"{scene.name}/{name}" for name in found),
        (scene.name,) * len(found),
    )


def photos_of_workspace(
    workspace: Workspace, count: int, captures: Path | None = None
) -> tuple[Photos, tuple[str, ...]]:
    """Held-out photos of the workspace's scenes, in turn from each.

    Args:
        workspace: Where the scenes are.
        count: Photos at most.
        captures: Where the captures lie now.

    Returns:
        The photos, and what kept a scene from giving any.

    Raises:
        SettingsError: There is nothing to look at.
    """
    groups: list[Photos] = []
    remarks: list[str] = []
    scenes = workspace.scene_paths()
    # One more scene than photos would be read in vain.
    for path in scenes[:count]:
        try:
            groups.append(photos_of_scene(path, workspace, captures))
        except Fit3dError as error:
            remarks.append(f"No photo of scene {path.stem}: {error.what}.")
    if not groups:
        raise SettingsError(
            "no photos to look at" + (f" ({remarks[0]})" if remarks else ""),
            where=workspace.root / "scenes",
            hint="name a picture or a folder (with --backbone and --tuned to choose models), or "
            "say where the captures lie with --captures",
        )
    shares = [count // len(groups) + (i < count % len(groups)) for i in range(len(groups))]
    parts = [group.spread(share) for group, share in zip(groups, shares, strict=True) if share]
    return (
        Photos(
            tuple(path for part in parts for path in part.paths),
            tuple(name for part in parts for name in part.names),
            tuple(group for part in parts for group in part.groups),
        ),
        tuple(remarks),
    )


def load_reports(directory: Path, pair: Pair) -> tuple[tuple[Report, ...], tuple[str, ...]]:
    """The probe reports of a directory that are about these models, by file name.

    Args:
        directory: May be absent.
        pair: The models. A report whose notes give digests of weights must give theirs; one
            without is taken for the workspace's own pair only.

    Returns:
        The reports, and remarks on those that were left out.
    """
    reports: list[Report] = []
    remarks: list[str] = []
    wanted = {model.weights_sha256[:12] for model in (pair.base, pair.tuned)}
    for path in sorted(directory.glob("*.json")):
        try:
            report = Report.from_json(path.read_text("utf-8"), where=path.name)
        except (ArchiveError, OSError, UnicodeDecodeError) as error:
            what = error.what if isinstance(error, Fit3dError) else "cannot be read"
            remarks.append(f"Left out {path.name}: {what}.")
            continue
        measured = set(_DIGEST.findall(" ".join(report.notes)))
        if measured <= wanted if measured else pair.own:
            reports.append(report)
        else:
            remarks.append(f"Left out {path.name}: it measured other models.")
    return tuple(reports), tuple(remarks)


def scene_rows(
    paths: Sequence[Path],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], tuple[str, ...]]:
    """``name``, ``gaussians`` and the measured figures of archives.

    Returns:
        One row per readable archive, by name the ``lift`` settings that differ from the defaults,
        and remarks on the archives that cannot be read.
    """
    rows: list[dict[str, Any]] = []
    settings: dict[str, dict[str, Any]] = {}
    remarks: list[str] = []
    for path in paths:
        try:
            told = describe(path)
        except ArchiveError as error:
            remarks.append(f"Left out {path.name}: {error.what}.")
            continue
        rows.append({"name": told["name"], "gaussians": told["gaussians"], **told["metrics"]})
        recorded = told["provenance"].get("settings")
        if isinstance(recorded, dict):
            settings[told["name"]] = recorded
    return rows, settings, tuple(remarks)
