"""RGB-D frames in one folder with registered depth, as the TSDF-fusion samples lay them out.

``intrinsics.txt`` (3x3 or 4x4 matrix of the colour picture, pixels), and per frame
``frame-NNNNNN.color.jpg`` (or ``.png``), ``frame-NNNNNN.pose.txt`` (4x4 camera to world, metres,
OpenCV axes) and, where the sensor had any, ``frame-NNNNNN.depth.png`` (16 bit, millimetres along
the optical axis, registered to the colour picture, 0 = unknown). Principal points are taken as
they stand: calibrations of such sensors do not say where pixel centres lie, and half a pixel is
below their accuracy. 7-Scenes as published has the same file names, but no intrinsics and depth of
another lens: see ``seven_scenes.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

from fit3d_cli.capture.base import READERS, Capture, Reader, View
from fit3d_cli.capture.files import invert_pose, read_matrix, read_pinhole, stored_size
from fit3d_cli.capture.seven_scenes import is_sequence
from fit3d_cli.errors import CaptureError

_POSE = re.compile(r"(frame-\d+)\.pose\.txt")
_COLOR_SUFFIXES = (".color.jpg", ".color.png", ".color.jpeg")


def sniff(path: Path) -> bool:
    """Whether there is any ``frame-NNNNNN.pose.txt``, and it is not 7-Scenes as published."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        return False
    return any(map(_POSE.fullmatch, names)) and not is_sequence(names)


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged.
    """
    K = read_pinhole(path / "intrinsics.txt")
    present = {entry.name for entry in path.iterdir()}
    usual = next((s for s in _COLOR_SUFFIXES if any(name.endswith(s) for name in present)),
                 _COLOR_SUFFIXES[0])  # fmt: skip
    views = []
    size: tuple[int, int] | None = None
    for stem in sorted(m[1] for name in present if (m := _POSE.fullmatch(name))):
        colors = [stem + suffix for suffix in _COLOR_SUFFIXES if stem + suffix in present]
        if len(colors) > 1:
            raise CaptureError(
                f"{' and '.join(colors)} are the same frame", where=path, hint="keep one of them"
            )
        # Without any, the common check reports the picture as missing, with all others.
        name = colors[0] if colors else stem + usual
        if size is None and colors:
            size = stored_size(path / name)  # that of the intrinsics, which hold for all frames
        width, height = size or (1, 1)
        depth = stem + ".depth.png"
        views.append(
            View(
                name=name,
                image_path=path / name,
                viewmat=invert_pose(read_matrix(path / f"{stem}.pose.txt", (4,))),
                K=K.clone(),
                width=width,
                height=height,
                depth_path=path / depth if depth in present else None,
            )
        )
    posed = {view.name for view in views}
    unposed = sum(name.endswith(_COLOR_SUFFIXES) and name not in posed for name in present)
    dropped = {"no pose file": unposed} if unposed else {}
    return Capture(path.name, path, "rgbd", tuple(views), metric=True, dropped=dropped)


READERS.add(
    "rgbd",
    Reader("frame-NNNNNN.{color.jpg,depth.png,pose.txt} and intrinsics.txt (RGB-D)", sniff, read),
)
