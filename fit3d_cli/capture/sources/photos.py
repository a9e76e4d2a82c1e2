"""A folder of photos without poses: structure from motion makes it a COLMAP project.

``images/`` holds the photos that got a pose (hard links where the disk allows it, else copies: the
originals may move away and are never written), ``sparse/0/`` the model.

Pixels are taken as stored, by fit3d and by COLMAP alike: neither applies an EXIF rotation, so the
cameras belong to the stored pixels. Photos that carry one are counted in a note.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image

from fit3d_cli.capture.files import numeric_key
from fit3d_cli.capture.sources.base import SOURCES, Source, SourceOptions
from fit3d_cli.capture.sources.facts import write_facts
from fit3d_cli.capture.sources.sfm import Lens, Poses, choose_pairs, find_poses, require_pycolmap
from fit3d_cli.errors import CaptureError, ImageError, StorageError
from fit3d_cli.images import image_header, read_image, save_png
from fit3d_cli.progress import OnEvent, Progress

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_UNREADABLE = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tif", ".tiff")
_FEWEST = 3
# From this many photos of one lens on, its distortion can be told in four coefficients.
_ENOUGH_FOR_OPENCV = 10
_FEW_FEATURES = 300
_BYTES_PER_PHOTO = 3 << 20  # features and matches, while it works
_DEPTH_MODES = ("I;16", "I;16L", "I;16B", "I")
_FOCAL, _FOCAL35, _MAKE, _MODEL, _EXIF = 0x920A, 0xA405, 0x010F, 0x0110, 0x8769


@dataclass(frozen=True)
class Photo:
    """A photo to find the pose of.

    Attributes:
        path: The file.
        size: Width and height as stored, pixels.
        lens: What EXIF says of camera and focal length; equal for photos of one lens.
        turned: Whether EXIF says that it is shown turned.
    """

    path: Path
    size: tuple[int, int]
    lens: tuple[str, ...]
    turned: bool


def photo_files(path: Path) -> list[Path]:
    """The photos of a folder, or of ``images`` in it, in the order of the numbers in their names.

    Empty for anything else, for a folder with depth maps among its pictures, and where it cannot
    be looked into.
    """
    for folder in (path, path / "images"):
        with suppress(OSError):
            names = [f for f in folder.iterdir() if not f.name.startswith(".")]
            found = [f for f in names if f.suffix.lower() in SUFFIXES and f.is_file()]
            if any("depth" in f.stem.lower() for f in found):
                return []
            if found:
                return sorted(found, key=lambda f: numeric_key(f.name))
    return []


def sniff(path: Path) -> bool:
    """Whether it is a folder of at least three photos, or of photos in a format to convert."""
    files = photo_files(path)
    if not files:
        return bool(_foreign(path))
    return len(files) >= _FEWEST and not _is_depth(files[0])


def _foreign(path: Path) -> list[Path]:
    with suppress(OSError):
        files = [f for f in path.iterdir() if f.suffix.lower() in _UNREADABLE and f.is_file()]
        return files if len(files) >= _FEWEST else []
    return []


def _is_depth(path: Path) -> bool:
    try:
        return image_header(path).mode in _DEPTH_MODES
    except ImageError:
        return False


def describe(path: Path) -> str:
    """How many photos of what kind."""
    files = photo_files(path)
    if not files:
        found = _foreign(path)
        return f"{len(found)} {found[0].suffix[1:].upper()} photos" if found else "no photos"
    kinds = Counter(f.suffix.lower()[1:].replace("jpg", "jpeg").upper() for f in files)
    kind = kinds.most_common(1)[0][0] + " " if len(kinds) == 1 else ""
    return f"{len(files)} {kind}photos without poses"


def make(path: Path, folder: Path, options: SourceOptions, on_event: OnEvent) -> None:
    """Find the poses of the photos and lay them out as a COLMAP project.

    Args:
        path: Folder of photos.
        folder: Empty folder to fill.
        options: ``matcher``, ``camera``, ``max_side``, ``min_registered``, ``seed``.
        on_event: Told about progress.

    Raises:
        CaptureError: Too few photos, a format that has to be converted, or too few poses found.
        ImageError: A photo cannot be read.
        EnvironmentFault: pycolmap is not installed or crashed.
        StorageError: The folder cannot be written.
    """
    require_pycolmap(path)
    files = photo_files(path)
    if not files:
        found = _foreign(path)
        kind = found[0].suffix if found else ""
        raise CaptureError(
            f"{len(found)} photos in a format that is not read ({kind})",
            where=path,
            hint=f"convert them, e.g. magick mogrify -format jpg -quality 95 '*{kind}'",
        )
    pose_photos(path, files, folder, options, on_event, ordered=False)


def pose_photos(
    path: Path,
    files: list[Path],
    folder: Path,
    options: SourceOptions,
    on_event: OnEvent,
    *,
    ordered: bool,
    facts: dict[str, float | int] | None = None,
) -> None:
    """Find the poses of photos and write ``images/``, ``sparse/0/`` and ``source.json``.

    Args:
        path: The source, for messages.
        files: The photos, in the order in which they were taken; may lie in ``folder/images``.
        folder: Folder to fill.
        options: See ``make``.
        on_event: Told about progress.
        ordered: Frames of one video: of one lens, whatever ``camera`` says.
        facts: More figures for ``source.json``.

    Raises:
        CaptureError: Too few poses.
        ImageError: A photo cannot be read.
        EnvironmentFault: pycolmap is not installed or crashed.
    """
    label = path.stem if path.is_file() else path.resolve().name
    photos = [_look(file) for file in files]
    _check_names(path, photos)
    (folder / "sparse").mkdir()
    with tempfile.TemporaryDirectory(prefix="fit3d-photos-", dir=folder) as scratch:
        work = Path(scratch)
        renamed = _lay_out(photos, work)
        names = list(renamed)
        lenses = _lenses(dict(zip(names, photos, strict=True)), options.camera, ordered)
        poses = find_poses(
            work, lenses, choose_pairs(names, options.matcher), folder / "sparse" / "0",
            renamed=renamed, max_side=options.max_side, seed=options.seed, label=label,
            on_event=on_event,
        )  # fmt: skip
        missed = len(names) - len(poses.registered)
        if len(poses.registered) < max(2, options.min_registered * len(names)):
            raise _too_few(path, poses, names, photos, options)
    kept = {renamed[name] for name in poses.registered}
    for photo in photos:
        _keep(photo.path, folder / "images" / photo.path.name, photo.path.name in kept)
    notes = [
        f"{len(kept)} of {len(names)} photos got a pose, mean reprojection error "
        f"{poses.error:.2f} px, {poses.points} points; the scale of the world is arbitrary"
    ]
    turned = sum(photo.turned for photo in photos)
    if turned:
        notes.append(f"{turned} photos carry an EXIF rotation; their pixels are used as stored")
    if missed and len(poses.models) > 1:
        others = ", ".join(map(str, poses.models[1:]))
        notes.append(f"the photos fell into {len(poses.models)} models; not used: {others} photos")
    figures: dict[str, float | int] = {
        "photos": len(names),
        "registered": len(kept),
        "reprojection_error": round(poses.error, 4),
        "points": poses.points,
        **(facts or {}),
    }
    write_facts(folder, notes, figures)
    told = f"{len(kept)} registered, {poses.error:.2f} px"
    on_event(Progress(f"{label}: poses", len(names), len(names), told))


def _look(path: Path) -> Photo:
    header = image_header(path)
    lens: list[str] = []
    with suppress(OSError, ValueError, SyntaxError), Image.open(path) as image:
        exif = image.getexif() if image.format != "PNG" else {}
        inner = exif.get_ifd(_EXIF) if hasattr(exif, "get_ifd") else {}
        lens = [str(exif.get(_MAKE, "")), str(exif.get(_MODEL, ""))]
        lens += [str(inner.get(_FOCAL, "")), str(inner.get(_FOCAL35, ""))]
    return Photo(path, (header.width, header.height), tuple(lens), header.orientation != 1)


def _check_names(path: Path, photos: list[Photo]) -> None:
    for photo in photos:
        try:
            photo.path.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CaptureError(
                "file name that is not UTF-8", where=photo.path, hint="rename it"
            ) from error
    if len(photos) < _FEWEST:
        raise CaptureError(
            f"{len(photos)} photos are too few to find poses",
            where=path,
            hint=f"give at least {_FEWEST}, better 30, that overlap",
        )


def _lay_out(photos: list[Photo], work: Path) -> dict[str, str]:
    """Links with plain, ordered names to what pycolmap shall read; returns their real names."""
    renamed = {}
    for index, photo in enumerate(photos):
        suffix = photo.path.suffix.lower()
        place = work / f"{index:06d}{'.png' if suffix == '.webp' else suffix}"
        if suffix == ".webp":  # pycolmap does not read it
            save_png(place, read_image(photo.path))
        else:
            place.symlink_to(photo.path.resolve())
        renamed[place.name] = photo.path.name
    return renamed


def _lenses(photos: dict[str, Photo], camera: str, ordered: bool) -> list[Lens]:
    """Which photos share a lens: those of one size and one EXIF focal length."""
    if camera == "per-image" and not ordered:
        return [Lens(list(photos), "SIMPLE_RADIAL", single=False)]
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name, photo in photos.items():
        alike: tuple[object, ...] = (photo.size,)
        if camera == "auto" and not ordered:
            alike = (photo.size, *photo.lens)
        groups[alike].append(name)
    return [
        Lens(names, "OPENCV" if len(names) >= _ENOUGH_FOR_OPENCV else "SIMPLE_RADIAL", single=True)
        for names in groups.values()
    ]


def _too_few(
    path: Path, poses: Poses, names: list[str], photos: list[Photo], options: SourceOptions
) -> CaptureError:
    """How many, why, and the exact next command."""
    total, got = len(names), len(poses.registered)
    between = [poses.inliers.get(pair, 0) for pair in pairwise(names)]
    median = statistics.median(between) if between else 0
    poor = sum(count < _FEW_FEATURES for count in poses.features.values())
    what = (
        f"only {got} of {total} photos got a pose ({100 * got / total:.0f} %), "
        f"median {median:g} inliers between neighbours"
    )
    if poor:
        what += f", {poor} photos with fewer than {_FEW_FEATURES} features (blurred or blank)"
    sets = []
    if options.matcher != "exhaustive" and len(choose_pairs(names, options.matcher)) < (
        total * (total - 1) // 2
    ):
        sets.append("lift.source.matcher=exhaustive")
    largest = max(max(photo.size) for photo in photos)
    if options.max_side < largest:
        sets.append(f"lift.source.max_side={min(largest, 2 * options.max_side)}")
    if sets:
        command = f"fit3d lift {shlex.quote(str(path))} " + " ".join(f"--set {x}" for x in sets)
        hint = f"try {command}; or give poses (sparse/0 of COLMAP, or transforms.json)"
    else:
        hint = (
            "take sharper photos that overlap by two thirds, walking around the scene; or give "
            "poses (sparse/0 of COLMAP, or transforms.json)"
        )
    if got >= 2:
        hint += "; to go on with these, --set lift.source.min_registered=0"
    return CaptureError(what, where=path, hint=hint)


def _keep(source: Path, place: Path, wanted: bool) -> None:
    """Bring a photo into the capture without a second copy where the disk allows it."""
    if source.parent == place.parent:  # a frame that was made here
        if not wanted:
            source.unlink()
        return
    if not wanted:
        return
    try:
        place.parent.mkdir(exist_ok=True)
        try:
            os.link(source.resolve(), place)
        except OSError:
            shutil.copyfile(source, place)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", where=place, hint="free some space"
        ) from error


def _room(path: Path) -> int:
    """Copies of the photos, should they lie on another disk, are checked when they are made."""
    return _BYTES_PER_PHOTO * len(photo_files(path))


SOURCES.add(
    "photos",
    Source(
        "a folder of at least 3 photos (.jpg, .png, .webp): poses are found with pycolmap",
        sniff,
        make,
        photo_files,
        ("matcher", "camera", "max_side", "min_registered", "seed"),
        describe,
        _room,
    ),
)
