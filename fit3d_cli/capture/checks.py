"""The checks that every capture passes, whichever reader made it."""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture, DepthCamera, View
from fit3d_cli.capture.files import RESTORE, numeric_key
from fit3d_cli.errors import CaptureError
from fit3d_cli.images import depth_size, image_header, image_size

NON_FINITE = "non-finite pose"
NOT_RIGID = "pose that is not rigid"
_ORTHONORMAL_TOLERANCE = 1e-2
_FAR, _FAR_OF_EXTENT = 1e5, 1e4


def check_capture(capture: Capture) -> Capture:
    """The capture with sorted, complete, consistent views.

    Views come in the order of their names, ``9.jpg`` before ``10.jpg``. Those whose pose is not
    finite, or whose rotation is off by more than 1e-2, are dropped and counted. Smaller deviations
    are mended, keeping the camera centre. Cameras calibrated at another resolution of the same
    photo are rescaled, with a note.

    Raises:
        CaptureError: Photos are missing, doubly named or of another size than their camera;
            intrinsics make no sense; fewer than two views are left.
        ImageError: A picture's header cannot be read.
    """
    _check_names(capture)
    _check_present(capture)
    dropped = Counter(capture.dropped)
    notes = list(capture.notes)
    views = []
    for view in sorted(capture.views, key=lambda v: numeric_key(v.name)):
        _check_intrinsics(view)
        pose = _rigid(view.viewmat)
        if isinstance(pose, str):
            dropped[pose] += 1
            continue
        view, note = _fit_size(replace(view, viewmat=pose))
        views.append(view)
        if note and note not in notes:
            notes.append(note)
    _check_places(capture, views)
    if len(views) < 2:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(dropped.items()))
        raise CaptureError(
            f"{len(views)} usable views" + (f" ({reasons})" if reasons else ""),
            where=capture.root,
            hint="a capture needs at least 2 photos with valid poses",
        )
    return replace(capture, views=tuple(views), dropped=dict(dropped), notes=tuple(notes))


def _check_names(capture: Capture) -> None:
    """Results are named after photos, also where names that differ little are one file."""
    same: dict[str, list[str]] = {}
    for view in capture.views:
        key = unicodedata.normalize("NFC", view.name).casefold()
        same.setdefault(key, []).append(view.name)
    doubled = {names[0] for names in same.values() if len(set(names)) < len(names)}
    places = Counter(os.path.normpath(view.image_path) for view in capture.views)
    twice = [view for view in capture.views if places[os.path.normpath(view.image_path)] > 1]
    doubled |= {view.name for view in twice}
    if doubled:
        raise CaptureError(
            f"{len(doubled)} photos are listed more than once: {', '.join(sorted(doubled)[:3])}",
            where=capture.root,
            hint="keep one entry per photo",
        )
    close = [names for names in same.values() if len(names) > 1]
    if close:
        raise CaptureError(
            f"{' and '.join(sorted(close[0])[:2])} differ only in case or in the form of accents",
            where=capture.root,
            hint="rename one of them",
        )


def _check_places(capture: Capture, views: list[View]) -> None:
    """Scenes are fitted in single precision, which world coordinates such as UTM are too large for.

    Raises:
        CaptureError: A camera is more than 100,000 units from the origin and more than 10,000
            times the size of the scene: details would be lost.
    """
    if len(views) < 2:
        return
    centers = torch.stack([-view.viewmat[:3, :3].T @ view.viewmat[:3, 3] for view in views])
    farthest = float(centers.abs().max())
    places = centers if capture.points is None else torch.cat([centers, capture.points.xyz])
    extent = float((places.amax(0) - places.amin(0)).max())
    if farthest > _FAR and farthest > _FAR_OF_EXTENT * extent:
        raise CaptureError(
            f"the cameras are {farthest:.6g} from the origin, in a scene of {extent:.3g}",
            where=capture.root,
            hint="subtract a constant offset from all positions (UTM is too large)",
        )


def _check_present(capture: Capture) -> None:
    stated = [
        path
        for view in sorted(capture.views, key=lambda v: v.name)
        for path in (view.image_path, view.mask_path, view.depth_path)
        if path is not None
    ]
    missing = [_shown(path, capture.root) for path in stated if not path.is_file()]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise CaptureError(
            f"{len(missing)} of {len(stated)} files are missing: {', '.join(missing[:3])}{more}",
            where=capture.root,
            hint="restore the files or remove their entries",
        )


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _check_intrinsics(view: View) -> None:
    K = view.K
    if not bool(torch.isfinite(K).all()) or float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
        raise CaptureError(
            f"focal lengths {float(K[0, 0]):g}, {float(K[1, 1]):g} are not positive numbers",
            where=view.image_path,
            hint="correct the intrinsics of this photo",
        )
    params = () if view.distortion is None else view.distortion.params
    if not all(map(math.isfinite, params)) or not 0 < view.depth_scale < math.inf:
        raise CaptureError(
            "lens coefficients or depth scale are not finite numbers",
            where=view.image_path,
            hint="correct the camera of this photo",
        )
    if view.depth_camera is not None:
        _check_depth_camera(view, view.depth_camera)


def _check_depth_camera(view: View, camera: DepthCamera) -> None:
    K, where = camera.K, view.depth_path or view.image_path
    if not bool(torch.isfinite(K).all()) or float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
        raise CaptureError(
            f"depth focal lengths {float(K[0, 0]):g}, {float(K[1, 1]):g} are not positive numbers",
            where=where,
            hint="correct the intrinsics of the depth camera",
        )
    if isinstance(_rigid(camera.photo_from_depth), str):
        raise CaptureError(
            "the depth camera's place beside the photo's is not a rigid motion",
            where=where,
            hint="correct the extrinsics of the depth camera",
        )


def _rigid(viewmat: Tensor) -> Tensor | str:
    """The nearest rigid matrix with the same centre, or why there is none."""
    if not bool(torch.isfinite(viewmat).all()):
        return NON_FINITE
    rotation = viewmat[:3, :3]
    eye = torch.eye(3, dtype=torch.float64)
    error = float((rotation @ rotation.T - eye).abs().max())
    bottom = viewmat[3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    if error > _ORTHONORMAL_TOLERANCE or float(bottom.abs().max()) > 1e-6:
        return NOT_RIGID
    if float(torch.linalg.det(rotation)) < 0:
        return NOT_RIGID
    if error < 1e-9:
        return viewmat
    center = -torch.linalg.solve(rotation, viewmat[:3, 3])
    left, _, right = torch.linalg.svd(rotation)
    mended = torch.eye(4, dtype=torch.float64)
    mended[:3, :3] = left @ right
    mended[:3, 3] = -(mended[:3, :3] @ center)
    return mended


def _fit_size(view: View) -> tuple[View, str]:
    """The view with its camera at the photo's stored size, and a note if it was rescaled."""
    header = image_header(view.image_path)
    photo, camera = (header.width, header.height), (view.width, view.height)
    sizes = f"photo {photo[0]}x{photo[1]}, camera {camera[0]}x{camera[1]}"
    if header.orientation >= 5 and photo != camera and _same_aspect(photo, camera[::-1]):
        raise CaptureError(
            f"{sizes}: the camera belongs to the picture turned by its EXIF orientation "
            f"{header.orientation}",
            where=view.image_path,
            hint="turn the stored pixels, e.g. exiftran -ai or magick mogrify -auto-orient",
        )
    if not _same_aspect(photo, camera):
        raise CaptureError(
            f"{sizes} do not match",
            where=view.image_path,
            hint="use the photos that the cameras were computed from, neither cropped nor turned",
        )
    if view.depth_path is not None and view.depth_camera is not None:
        _check_depth_size(view.depth_path, view.depth_camera)
    elif view.depth_path is not None:
        _check_grid(view.depth_path, depth_size(view.depth_path), photo)
    if view.mask_path is not None:
        _check_grid(view.mask_path, image_size(view.mask_path), photo)
    if photo == camera:
        return view, ""
    scale = torch.tensor([photo[0] / camera[0], photo[1] / camera[1], 1.0], dtype=torch.float64)
    note = f"cameras of {camera[0]}x{camera[1]} rescaled to photos of {photo[0]}x{photo[1]}"
    return replace(view, K=view.K * scale[:, None], width=photo[0], height=photo[1]), note


def _check_grid(path: Path, size: tuple[int, int], photo: tuple[int, int]) -> None:
    """Depth and masks may be of another resolution than the photo, not of another aspect."""
    if not _same_aspect(size, photo):
        raise CaptureError(
            f"{size[0]}x{size[1]}, its photo {photo[0]}x{photo[1]}",
            where=path,
            hint=f"{RESTORE}, on the pixel grid of the photo",
        )


def _check_depth_size(path: Path, camera: DepthCamera) -> None:
    """Depth of another camera may have any size, but its axis goes through its middle half."""
    width, height = depth_size(path)
    cx, cy = float(camera.K[0, 2]), float(camera.K[1, 2])
    if not (0.25 <= cx / width <= 0.75 and 0.25 <= cy / height <= 0.75):
        raise CaptureError(
            f"{width}x{height}, but the depth camera's axis is at {cx:g}, {cy:g}",
            where=path,
            hint="store depth in the size that its intrinsics are for",
        )


def _same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one size is the other scaled, within the rounding of the smaller to pixels."""
    (width, height), (wide, high) = sorted((a, b))
    return abs(height - high * width / wide) <= 1 or abs(width - wide * height / high) <= 1
