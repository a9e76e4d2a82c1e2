"""Polycam's raw export of a LiDAR or Room capture: the folder that holds ``keyframes``.

``keyframes/corrected_images`` and ``corrected_cameras`` (undistorted photos, globally optimised
poses) are taken where both are there, else ``images`` and ``cameras`` (ARKit's own poses). A photo
``<timestamp>.jpg`` has its camera in ``<timestamp>.json``: the rows ``t_00 .. t_23`` of a 3x4
camera-to-world matrix, metres, and ``fx fy cx cy`` in pixels of ``width`` x ``height``, which newer
versions leave out of the corrected cameras: then the photo's own size is meant.

Axes are ARKit's, which are OpenGL's: x right, y up, z backward in the photo as it is stored, which
is landscape however the phone was held; nothing is turned. The world (y up) stays Polycam's.
ARKit's principal point is the offset from the corner of the picture, so pixel centres lie at
+0.5, as here.

``keyframes/depth/<timestamp>.png`` is 16 bit, millimetres along the optical axis, of a lower
resolution than the photo and the same field of view.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fit3d_cli.capture.base import READERS, Capture, Reader, View
from fit3d_cli.capture.depth_maps import depth_beside
from fit3d_cli.capture.files import Fields, intrinsics, invert_pose, read_json, stored_size
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import OPENGL_TO_OPENCV

_CORRECTED = ("corrected_images", "corrected_cameras")
_RAW = ("images", "cameras")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_NAMES = [f"t_{row}{column}" for row in range(3) for column in range(4)]


def sniff(path: Path) -> bool:
    """Whether there is ``keyframes`` with photos, or the folder is ``keyframes`` itself."""
    try:
        inside = _keyframes(path)
        if inside.name != "keyframes":
            return False
        return any((inside / photos).is_dir() for photos, _ in (_CORRECTED, _RAW))
    except OSError:
        return False


def _keyframes(path: Path) -> Path:
    return path / "keyframes" if (path / "keyframes").is_dir() else path


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: No cameras were exported, or a file is missing or damaged.
    """
    base = _keyframes(path)
    photos, cameras = (base / name for name in _chosen(base))
    notes = []
    if photos.name == _RAW[0]:
        notes.append("no corrected_cameras: ARKit's own poses taken, Polycam did not optimise them")
    views, unposed = [], 0
    for photo in sorted(p for p in photos.iterdir() if p.suffix.lower() in _SUFFIXES):
        camera = cameras / f"{photo.stem}.json"
        if camera.is_file():
            views.append(_view(path, photo, read_json(camera), base / "depth"))
        else:
            unposed += 1
    posed = {view.image_path.stem for view in views}
    lost = sorted(c.name for c in cameras.glob("*.json") if c.stem not in posed)
    if lost:
        raise CaptureError(
            f"{len(lost)} cameras without a photo in {photos.name}: {', '.join(lost[:3])}"
            + (", ..." if len(lost) > 3 else ""),
            where=cameras,
            hint="restore the photos or remove their cameras",
        )
    dropped = {"no camera file": unposed} if unposed else {}
    return Capture(path.name, path, "polycam", tuple(views), metric=True, dropped=dropped,
                   notes=tuple(notes))  # fmt: skip


def _chosen(base: Path) -> tuple[str, str]:
    """Folders of the photos and their cameras, the better pair that is whole."""
    for photos, cameras in (_CORRECTED, _RAW):
        if (base / photos).is_dir() and (base / cameras).is_dir():
            return photos, cameras
    raise CaptureError(
        "photos without cameras",
        where=base,
        hint="Polycam exports cameras of LiDAR and Room captures only, with its developer mode "
        "switched on before the capture; for others name the folder of the photos itself, to have "
        "the poses found",
    )


def _view(root: Path, photo: Path, camera: Fields, depths: Path) -> View:
    if "width" in camera or "height" in camera:
        width, height = camera.size("width"), camera.size("height")
    else:
        width, height = stored_size(photo)
    K = intrinsics(*(camera.number(name) for name in ("fx", "fy", "cx", "cy")))
    rows = [camera.number(name) for name in _NAMES] + [0.0, 0.0, 0.0, 1.0]
    c2w = torch.tensor(rows, dtype=torch.float64).reshape(4, 4)
    depth_path, depth_camera = depth_beside(depths / f"{photo.stem}.png", K, width, height)
    return View(
        name=photo.relative_to(root).as_posix(),
        image_path=photo,
        viewmat=invert_pose(c2w * torch.tensor(OPENGL_TO_OPENCV, dtype=torch.float64)),
        K=K,
        width=width,
        height=height,
        depth_path=depth_path,
        depth_camera=depth_camera,
    )


READERS.add(
    "polycam",
    Reader("keyframes/{corrected_images,corrected_cameras,depth} (Polycam raw data)", sniff, read),
)
