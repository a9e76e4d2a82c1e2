"""Finding and reading captures: detection of the layout, then the checks common to all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, View
from fit3d_cli.capture.checks import check_capture
from fit3d_cli.capture.files import read_bytes
from fit3d_cli.capture.frames import view_camera
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import Cameras, stack_cameras

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")


def find_captures(path: Path, reader: str = "") -> list[Path]:
    """The captures at ``path``: itself, else those of its visible subfolders that are one.

    Args:
        path: A capture, or a folder of captures.
        reader: Name of the only reader to ask; empty asks all.

    Returns:
        Directories, sorted; at least one.

    Raises:
        CaptureError: There is none; the message lists the known layouts.
        UnknownNameError: No such reader.
    """
    if _matching(path, reader):
        return [path]
    if not path.is_dir():
        what = "a file, not a directory" if path.exists() else "no such directory"
        hint = f"give the folder {path.parent}" if path.exists() else "check the path"
        raise CaptureError(what, where=path, hint=hint)
    found = [child for child in _folders(path) if _matching(child, reader)]
    if not found:
        raise _not_understood(path, reader)
    return found


def is_capture(path: Path, reader: str = "") -> bool:
    """Whether ``path`` is laid out as ``reader`` expects, or as any reader does if it is empty.

    Raises:
        UnknownNameError: No such reader.
    """
    return bool(_matching(path, reader))


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
        raise CaptureError("no such directory", where=path, hint="check the path")
    path = path.resolve()  # "." has no name
    matching = [reader] if reader and READERS.get(reader) else _matching(path, reader)
    if not matching:
        raise _not_understood(path, reader)
    if len(matching) > 1:
        raise CaptureError(
            f"laid out like {' and like '.join(matching)}",
            where=path,
            hint=f"choose with --set lift.reader={matching[0]}",
        )
    try:
        capture = check_capture(READERS.get(matching[0]).read(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    return capture if name is None else replace(capture, name=name)


def _matching(path: Path, reader: str) -> list[str]:
    if reader:
        return [reader] if READERS.get(reader, where="lift.reader").sniff(path) else []
    return [key for key, entry in READERS.items() if entry.sniff(path)]


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(c for c in path.iterdir() if c.is_dir() and not c.name.startswith("."))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CaptureError:
    return CaptureError(
        f"cannot be read ({error.strerror})", where=path, hint="check the permissions"
    )


def _not_understood(path: Path, reader: str) -> CaptureError:
    if reader:
        return CaptureError(
            f"not laid out like {reader}", where=path, hint=f"expected {READERS.get(reader).layout}"
        )
    for folder in (path, path / "images"):
        if folder.is_dir() and any(f.suffix.lower() in _PHOTOS for f in folder.iterdir()):
            return CaptureError(
                f"photos without camera poses (in {folder.name})",
                where=path,
                hint="find the poses first, e.g. colmap automatic_reconstructor "
                f"--image_path {folder} --workspace_path {path}",
            )
    layouts = "; ".join(entry.layout for _, entry in READERS.items())
    return CaptureError("not a capture", where=path, hint=f"expected one of: {layouts}")


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
    lens = view.distortion
    return [
        view.name,
        *(_file_digest(path) for path in (view.image_path, view.depth_path, view.mask_path)),
        _rounded(view.viewmat.flatten().tolist()),
        _rounded(view.K.flatten().tolist()),
        [view.width, view.height],
        None if lens is None else [lens.model, *_rounded(list(lens.params))],
        _rounded([view.depth_scale]),
    ]


def _rounded(values: list[float]) -> list[str]:
    return [f"{round(value, 9) + 0.0:.9f}" for value in values]


def _file_digest(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(read_bytes(path)).hexdigest()
