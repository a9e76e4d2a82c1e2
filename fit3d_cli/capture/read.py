"""Reading captures: detection of the layout, then the checks common to all."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, View
from fit3d_cli.capture.checks import check_capture
from fit3d_cli.capture.files import read_bytes
from fit3d_cli.capture.frames import view_camera
from fit3d_cli.capture.sources.base import SOURCES
from fit3d_cli.capture.sources.facts import source_notes
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import Cameras, stack_cameras

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")


def is_capture(path: Path, reader: str = "") -> bool:
    """Whether ``path`` is laid out as ``reader`` expects, or as any reader does if it is empty.

    Raises:
        UnknownNameError: No such reader.
    """
    return bool(matching_readers(path, reader))


def read_capture(path: Path, reader: str = "", name: str | None = None) -> Capture:
    """Read and check one capture.

    Args:
        path: The directory.
        reader: Name of the reader; empty detects the layout.
        name: Name of the scene; by default that of the directory.

    Returns:
        The capture, its views sorted by name, every photo present and of its camera's size,
        every pose finite and rigid.

    Raises:
        CaptureError: Missing, damaged, ambiguous or not understood.
        ImageError: A photo's header cannot be read.
        UnknownNameError: No such reader.
    """
    if not path.is_dir():
        raise not_a_capture(path, reader)
    path = path.resolve()  # "." has no name
    matching = [reader] if reader and READERS.get(reader) else matching_readers(path, reader)
    if not matching:
        raise not_a_capture(path, reader)
    if len(matching) > 1:
        raise CaptureError(
            f"laid out like {' and like '.join(matching)}",
            where=path,
            hint=f"choose with --set lift.reader={matching[0]}",
        )
    try:
        capture = check_capture(READERS.get(matching[0]).read(path))
    except OSError as error:
        raise unreadable(path, error) from error
    capture = replace(capture, notes=(*source_notes(path), *capture.notes))
    return capture if name is None else replace(capture, name=name)


def matching_readers(path: Path, reader: str = "") -> list[str]:
    """Names of the readers that understand ``path``; only ``reader`` is asked, if it is named.

    Raises:
        UnknownNameError: No such reader.
    """
    if reader:
        return [reader] if READERS.get(reader, where="lift.reader").sniff(path) else []
    return [key for key, entry in READERS.items() if entry.sniff(path)]


def unreadable(path: Path, error: OSError) -> CaptureError:
    """The error for a place that cannot be looked into."""
    return CaptureError(
        f"cannot be read ({error.strerror})", where=path, hint="check the permissions"
    )


def not_a_capture(path: Path, reader: str = "") -> CaptureError:
    """Why a verb that wants a capture cannot have this one; a source has to be lifted first."""
    for _, source in () if reader else SOURCES.items():
        if source.sniff(path):
            what = source.describe(path) if source.describe else source.layout
            return CaptureError(
                f"{what}: not a capture yet",
                where=path,
                hint=f"run fit3d lift {shlex.quote(str(path))}, which makes it one",
            )
    return not_understood(path, reader)


def not_understood(path: Path, reader: str = "") -> CaptureError:
    """The error for a path that no reader and no source knows."""
    if not path.exists():
        return CaptureError("no such file or directory", where=path, hint="check the path")
    if reader:
        known = READERS.get(reader).layout if reader in READERS else SOURCES.get(reader).layout
        return CaptureError(f"not laid out like {reader}", where=path, hint=f"expected {known}")
    if path.is_file() and path.suffix.lower() in (*_PHOTOS, ".json", ".txt", ".bin"):
        return CaptureError(
            "a file, not a capture", where=path, hint=f"give the folder {path.parent}"
        )
    return CaptureError(
        f"neither a capture nor a source of one ({_held(path)})",
        where=path,
        hint="give photos, a video, .sens, or a layout like colmap or transforms "
        "(--set lift.reader=? lists them)",
    )


def _held(path: Path) -> str:
    """What a folder holds, in a few words."""
    try:
        names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    except OSError:
        return "unreadable"
    if path.is_file():
        return f"a {path.suffix or 'nameless'} file"
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(name[:16] for name in names[:2]) + more if names else "an empty folder"


def spread(capture: Capture, max_views: int) -> Capture:
    """The capture with at most ``max_views`` evenly spread views; 0 keeps all.

    Raises:
        CaptureError: ``max_views`` is 1.
    """
    count = len(capture.views)
    if max_views <= 0 or count <= max_views:
        return capture
    if max_views == 1:
        raise CaptureError(
            "one view is no capture", where=capture.root, hint="use at least 2 views"
        )
    picked = tuple(capture.views[(2 * i + 1) * count // (2 * max_views)] for i in range(max_views))
    return replace(capture, views=picked)


def view_cameras(capture: Capture) -> Cameras:
    """The V pinhole cameras of the undistorted views at the stored photos' size."""
    return stack_cameras([view_camera(view) for view in capture.views])


def heldout_mask(names: tuple[str, ...] | list[str], fraction: float, seed: int) -> Tensor:
    """Which views are kept out of fitting, evenly spread along the sorted names.

    Args:
        names: View names; the result depends on them, ``fraction`` and ``seed`` only.
        fraction: Share of the views, 0 to 0.5.
        seed: Shifts the choice.

    Returns:
        ``[V]`` bool. With 3 views or more and ``fraction`` > 0 at least one is True; with
        fewer none is.
    """
    total = len(names)
    mask = torch.zeros(total, dtype=torch.bool)
    if fraction <= 0 or total < 3:
        return mask
    held = min(max(1, round(total * fraction)), total - 1)
    order = sorted(range(total), key=lambda i: names[i])
    text = json.dumps([seed, *(names[i] for i in order)])
    # A hash instead of a generator: the same choice on every machine and torch version.
    shift = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    for i in range(held):
        mask[order[((i << 32) + shift) * total // (held << 32)]] = True
    return mask


def capture_digest(capture: Capture) -> str:
    """sha256 (hex) of what a capture holds, wherever it lies and in whatever order.

    It covers names, photos, depth, masks, cameras, sparse points and whether the world is
    metric. Camera numbers are rounded to 9 decimals, so that the last bit of a matrix inverse
    does not tell machines apart.

    Raises:
        CaptureError: A file cannot be read.
    """
    entries = [_view_record(view) for view in sorted(capture.views, key=lambda v: v.name)]
    total = hashlib.sha256()
    total.update(json.dumps({"metric": capture.metric, "views": entries}).encode())
    if capture.points is not None:
        total.update(capture.points.xyz.contiguous().numpy().astype("<f8").tobytes())
        total.update(capture.points.rgb.contiguous().numpy().tobytes())
    return total.hexdigest()


def _view_record(view: View) -> list[object]:
    lens, camera = view.distortion, view.depth_camera
    record: list[object] = [
        view.name,
        *(_file_digest(path) for path in (view.image_path, view.depth_path, view.mask_path)),
        _rounded(view.viewmat.flatten().tolist()),
        _rounded(view.K.flatten().tolist()),
        [view.width, view.height],
        None if lens is None else [lens.model, *_rounded(list(lens.params))],
        _rounded([view.depth_scale]),
    ]
    # Absent where there is nothing to say: digests of older archives stay as they are.
    if camera is not None:
        numbers = [*camera.K.flatten().tolist(), *camera.photo_from_depth.flatten().tolist()]
        record.append(["depth camera", *_rounded(numbers)])
    if view.depth_unknown:
        record.append(["depth unknown", *sorted(view.depth_unknown)])
    return record


def _rounded(values: list[float]) -> list[str]:
    return [f"{round(value, 9) + 0.0:.9f}" for value in values]


def _file_digest(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(read_bytes(path)).hexdigest()
