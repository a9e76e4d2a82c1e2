"""7-Scenes as Microsoft publishes it: Kinect frames in ``seq-NN`` folders, no calibration.

Per frame ``frame-NNNNNN.color.png``, ``frame-NNNNNN.depth.png`` (16 bit, millimetres along the
optical axis, 0 and 65535 = unknown) and ``frame-NNNNNN.pose.txt`` (4x4 camera to world, metres,
OpenCV axes). A folder with ``seq-NN`` inside is one scene in one world: all its sequences are
read, those of TrainSplit.txt and of TestSplit.txt alike. A ``seq-NN`` folder is read alone.

The publishers state the depth camera's intrinsics only (focal length 585, centre 320, 240) and
none for the photos, and depth is not registered to them. The photos get a focal length of 525 and
the same centre, and their lens sits 25 mm beside the one of depth, without rotation: the Kinect's
nominal values. On red kitchen the edges of depth fall on those of the photos best with 20 to 25 mm
and 525 px (tried: 0 to 25 mm, 515 to 585 px), and photos warped into each other by depth and pose
agree best. The poses are the depth camera's, for KinectFusion tracked it; those of the views are
moved by the offset. Depth is brought to the photos' pixels when a frame is loaded. Frames with an
``intrinsics.txt`` are another layout (``rgbd``), whose depth is registered already.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch

from fit3d_cli.capture.base import READERS, Capture, DepthCamera, Reader, View
from fit3d_cli.capture.files import intrinsics, invert_pose, read_matrix
from fit3d_cli.errors import CaptureError
from fit3d_cli.images import image_size

WIDTH, HEIGHT = 640, 480
PHOTO_FOCAL, DEPTH_FOCAL = 525.0, 585.0
BASELINE = 0.025  # metres; what the depth camera sees lies so much further left for the photo's
_POSE = re.compile(r"(frame-\d+)\.pose\.txt")
_SEQUENCE = re.compile(r"seq-\d+")
_PACKED = re.compile(r"seq-\d+\.zip")


def is_sequence(names: Collection[str]) -> bool:
    """Whether a folder with these entries is one published sequence."""
    return (
        any(map(_POSE.fullmatch, names))
        and any(name.endswith(".color.png") for name in names)
        and not any(name.endswith("intrinsics.txt") for name in names)
    )


def sniff(path: Path) -> bool:
    """Whether it is a sequence, or has ``seq-NN`` folders with frames, packed or not."""
    try:
        names = {entry.name for entry in path.iterdir()}
        if is_sequence(names):
            return True
        folders = [path / name for name in names if _SEQUENCE.fullmatch(name)]
        return any(map(_PACKED.fullmatch, names)) or any(
            is_sequence({entry.name for entry in folder.iterdir()})
            for folder in folders
            if folder.is_dir()
        )
    except OSError:
        return False


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged, or the sequences are still packed.
        ImageError: A photo cannot be read.
    """
    names = {entry.name for entry in path.iterdir()}
    if is_sequence(names):
        views, unposed = _sequence(path, "")
        notes = []
    else:
        folders = sorted(n for n in names if _SEQUENCE.fullmatch(n) and (path / n).is_dir())
        packed = sorted(n for n in names if _PACKED.fullmatch(n) and n[:-4] not in folders)
        if packed:
            raise CaptureError(
                f"{len(packed)} sequences are still packed, e.g. {packed[0]}",
                where=path,
                hint="unpack them, e.g. for z in seq-*.zip; do unzip -q $z; done, or remove them",
            )
        views, unposed = [], 0
        for folder in folders:
            more, lost = _sequence(path / folder, f"{folder}/")
            views += more
            unposed += lost
        notes = [f"{len(folders)} sequences read as one scene"]
    notes.append(
        f"photos: focal length {PHOTO_FOCAL:g} px and {1000 * BASELINE:g} mm beside the lens of "
        "depth assumed, none is published"
    )
    dropped = {"no pose file": unposed} if unposed else {}
    return Capture(
        path.name, path, "7-scenes", tuple(views), metric=True, dropped=dropped, notes=tuple(notes)
    )


def _sequence(folder: Path, prefix: str) -> tuple[list[View], int]:
    """The views of one sequence, and how many photos have no pose."""
    present = {entry.name for entry in folder.iterdir()}
    photo_from_depth = torch.eye(4, dtype=torch.float64)
    photo_from_depth[0, 3] = -BASELINE
    camera = DepthCamera(
        intrinsics(DEPTH_FOCAL, DEPTH_FOCAL, WIDTH / 2, HEIGHT / 2), photo_from_depth
    )
    views = []
    for stem in sorted(m[1] for name in present if (m := _POSE.fullmatch(name))):
        color, depth = f"{stem}.color.png", f"{stem}.depth.png"
        for name in {color, depth} & present:
            _check_size(folder / name)
        depth_from_world = invert_pose(read_matrix(folder / f"{stem}.pose.txt", (4,)))
        views.append(
            View(
                name=prefix + color,
                image_path=folder / color,
                viewmat=photo_from_depth @ depth_from_world,
                K=intrinsics(PHOTO_FOCAL, PHOTO_FOCAL, WIDTH / 2, HEIGHT / 2),
                width=WIDTH,
                height=HEIGHT,
                depth_path=folder / depth if depth in present else None,
                depth_camera=camera if depth in present else None,
                depth_unknown=(65535,) if depth in present else (),
            )
        )
    posed = {view.image_path.name for view in views}
    unposed = sum(name.endswith(".color.png") and name not in posed for name in present)
    return views, unposed


def _check_size(path: Path) -> None:
    """The constants above hold for the Kinect's pictures as they were published only."""
    if image_size(path) != (WIDTH, HEIGHT):
        width, height = image_size(path)
        raise CaptureError(
            f"{width}x{height}, 7-Scenes has {WIDTH}x{HEIGHT}",
            where=path,
            hint="for frames of another camera put its 3x3 matrix into intrinsics.txt beside them",
        )


READERS.add(
    "7-scenes",
    Reader("seq-NN/frame-NNNNNN.{color.png,depth.png,pose.txt} (7-Scenes)", sniff, read),
)
