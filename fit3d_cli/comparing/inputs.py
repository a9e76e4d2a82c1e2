"""What there is to compare: models, photos, reports and scenes of a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit3d_cli.archive import describe, read_archive
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import READERS
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import ArchiveError, Fit3dError, ImageError, SettingsError
from fit3d_cli.report import Report
from fit3d_cli.settings import BackboneSettings
from fit3d_cli.workspace import Workspace

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Pair:
    """Two loaded models.

    Attributes:
        base: The first one.
        tuned: The second one.
        base_name: Name to show, without directories.
        tuned_name: Name to show, without directories.
        own: Whether they are the workspace's newest tuned model and its base, the pair that
            the workspace's reports measured.
        remarks: What a reader must know.
    """

    base: Backbone
    tuned: Backbone
    base_name: str
    tuned_name: str
    own: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Photos:
    """Pictures to look at.

    Attributes:
        paths: Files.
        names: What to call them.
        groups: The scene of each, or empty when all belong together.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...] = ()

    def spread(self, count: int) -> Photos:
        """At most ``count`` of them, evenly spread."""
        if len(self.paths) <= count:
            return self
        picks = [(2 * i + 1) * len(self.paths) // (2 * count) for i in range(count)]
        return Photos(
            tuple(self.paths[i] for i in picks),
            tuple(self.names[i] for i in picks),
            tuple(self.groups[i] for i in picks) if self.groups else (),
        )


def load_pair(
    workspace: Workspace,
    backbone: BackboneSettings,
    *,
    tuned: str = "",
    base_given: bool = False,
    device: str = "cpu",
) -> Pair:
    """A tuned model and the base that it was tuned from.

    Args:
        workspace: Where models are looked for by name.
        backbone: The base, if ``base_given``; its ``weights`` hold in any case.
        tuned: Name or directory of the tuned model; empty takes the newest.
        base_given: Whether the user chose the base; otherwise the tuned model's own record
            names it.
        device: ``cpu`` or ``cuda``.

    Raises:
        SettingsError: There is no tuned model.
        WeightsError: A model directory is damaged, or the base does not fit it.
        UnknownNameError: No such backbone.
        OfflineError: Weights would have to be downloaded.
    """
    directory = model_name(tuned, workspace) if tuned else str(workspace.newest_model())
    record = read_provenance(Path(directory)) if Path(directory).is_dir() else {}
    recorded = str(record.get("backbone", ""))
    name = backbone.name if base_given or not recorded else recorded
    base = load_backbone(model_name(name, workspace), weights=backbone.weights, device=device)
    second = load_backbone(directory, device=device)
    remarks = _base_remarks(base, record)
    return Pair(base, second, base.name, second.name, _is_newest(directory, workspace), remarks)


def load_two(
    first: str, second: str, workspace: Workspace, *, weights: str = "", device: str = "cpu"
) -> Pair:
    """Any two models by name or directory.

    Args:
        first: The one that is shown as the base.
        second: The one that is shown as tuned.
        workspace: Where models are looked for by name.
        weights: File for the first, instead of its default weights.
        device: ``cpu`` or ``cuda``.

    Raises:
        Fit3dError: As ``load_pair``.
    """
    directory = model_name(second, workspace)
    base = load_backbone(model_name(first, workspace), weights=weights, device=device)
    tuned = load_backbone(directory, device=device)
    own = False
    if _is_newest(directory, workspace):
        own = read_provenance(Path(directory)).get("backbone") == base.name
    return Pair(base, tuned, base.name, tuned.name, own)


def model_name(name: str, workspace: Workspace) -> str:
    """``name``, or the directory of the workspace's model that is called so."""
    inside = workspace.models_dir / name
    return str(inside) if (inside / "config.json").is_file() else name


def _is_newest(directory: str, workspace: Workspace) -> bool:
    try:
        return Path(directory).resolve() == workspace.newest_model().resolve()
    except SettingsError:
        return False


def _base_remarks(base: Backbone, record: dict[str, Any]) -> tuple[str, ...]:
    expected = record.get("base_weights_sha256")
    if not expected or expected == base.weights_sha256:
        return ()
    return (
        f"The weights of {base.name} are not those that the tuned model started from: "
        "name their file with --weights.",
    )


def photos_of_path(path: Path) -> Photos:
    """A picture, the photos of a capture, or all pictures of a folder, by name.

    Raises:
        ImageError: No such file, or no picture in the folder.
        CaptureError: A capture that cannot be read.
    """
    if path.is_file():
        return Photos((path,), (path.name,))
    if not path.is_dir():
        raise ImageError("no such picture or folder", where=path, hint="check the path")
    if any(entry.sniff(path) for _, entry in READERS.items()):
        views = read_capture(path).views
        return Photos(tuple(v.image_path for v in views), tuple(v.name for v in views))
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ImageError(
            "no picture in this folder", where=path, hint=f"expected {', '.join(SUFFIXES)} files"
        )
    return Photos(tuple(files), tuple(f.name for f in files))


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
            hint="name a picture or a folder, say where captures lie with --captures, or run "
            "fit3d lift first",
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


def load_reports(
    directory: Path, *, newer_than: Path | None = None
) -> tuple[tuple[Report, ...], tuple[str, ...]]:
    """All probe reports of a directory, by file name.

    Args:
        directory: May be absent.
        newer_than: A file of the tuned model: reports from before it deserve a remark.

    Returns:
        The reports, and remarks on those that could not be read or are out of date.
    """
    reports: list[Report] = []
    remarks: list[str] = []
    for path in sorted(directory.glob("*.json")):
        try:
            report = Report.from_json(path.read_text("utf-8"), where=path.name)
        except (ArchiveError, OSError, UnicodeDecodeError) as error:
            what = error.what if isinstance(error, Fit3dError) else "cannot be read"
            remarks.append(f"Left out {path.name}: {what}.")
            continue
        if newer_than is not None and path.stat().st_mtime < newer_than.stat().st_mtime:
            remarks.append(
                f"{path.name} was measured before the tuned model was finished: run that probe "
                "again."
            )
        reports.append(report)
    return tuple(reports), tuple(remarks)


def scene_rows(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """``name``, ``gaussians`` and the measured figures of archives.

    Returns:
        One row per readable archive, and remarks on the others.
    """
    rows: list[dict[str, Any]] = []
    remarks: list[str] = []
    for path in paths:
        try:
            told = describe(path)
        except ArchiveError as error:
            remarks.append(f"Left out {path.name}: {error.what}.")
            continue
        rows.append({"name": told["name"], "gaussians": told["gaussians"], **told["metrics"]})
    return rows, tuple(remarks)
