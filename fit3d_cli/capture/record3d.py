"""A Record3D recording, unpacked: ``metadata`` and ``rgbd``, or its EXR + JPG export.

The app's ``.r3d`` file is a zip of ``metadata`` (JSON) and ``rgbd/<n>.jpg``; the EXR + JPG export
has ``metadata.json`` and ``rgb/<n>.jpg``. In the JSON, ``poses[n]`` is ``qx qy qz qw tx ty tz``,
camera to world, metres, OpenGL axes (x right, y up, z backward) of the photo as it is stored;
nothing is turned. ``K`` is 3x3 and column-major, for photos of ``w`` x ``h``; newer recordings
have ``perFrameIntrinsicCoeffs``, ``fx fy cx cy`` for each frame, which win. Principal points are
ARKit's offsets from the corner of the picture, so pixel centres lie at +0.5, as here.

Only recordings of the LiDAR camera have poses. Their depth, ``rgbd/<n>.depth``, is float32 metres
compressed with LZFSE, and ``depth/<n>.exr`` in the other export: neither can be read in place. When
fit3d unpacks a ``.r3d`` itself it writes ``depth/<n>.png``, 16 bit, millimetres, which is read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import READERS, Capture, Reader, View
from fit3d_cli.capture.colmap_model import pose_matrix
from fit3d_cli.capture.depth_maps import depth_beside
from fit3d_cli.capture.files import RESTORE, Fields, intrinsics, invert_pose, read_json
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import OPENGL_TO_OPENCV

_FOLDERS = (("metadata", "rgbd"), ("metadata.json", "rgbd"), ("metadata.json", "rgb"))
_SUFFIXES = (".jpg", ".jpeg", ".png")
POSES_NEEDED = (
    "record with the LiDAR camera, or name the folder of the photos itself, to have the poses found"
)


def sniff(path: Path) -> bool:
    """Whether metadata and numbered photos are there."""
    try:
        return _layout(path) is not None
    except OSError:
        return False


def _layout(path: Path) -> tuple[Path, Path] | None:
    """The metadata file and the folder of the photos."""
    for metadata, photos in _FOLDERS:
        if (path / metadata).is_file() and (path / photos).is_dir() and _frames(path / photos):
            return path / metadata, path / photos
    return None


def _frames(folder: Path) -> dict[int, Path]:
    """Photos by the number that is their name."""
    return {
        int(entry.stem): entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in _SUFFIXES and entry.stem.isascii() and entry.stem.isdigit()
    }


def read(path: Path) -> Capture:
    """Read the layout.

    Raises:
        CaptureError: A file is missing or damaged, or the recording has no poses.
    """
    layout = _layout(path)
    if layout is None:
        raise CaptureError("no metadata beside rgbd/0.jpg, ...", where=path, hint=RESTORE)
    source, folder = layout
    recording = Recording(read_json(source))
    frames = _frames(folder)
    posed = {number: photo for number, photo in frames.items() if number < recording.count}
    views = tuple(_view(path, recording, number, photo) for number, photo in sorted(posed.items()))
    notes = recording.notes
    if len(posed) < recording.count:
        notes.append(f"{len(posed)} of the {recording.count} recorded frames have a photo here")
    notes += _depth_notes(path, folder, views)
    dropped = {"no pose": len(frames) - len(posed)} if len(posed) < len(frames) else {}
    return Capture(path.name, path, "record3d", views, metric=True, dropped=dropped,
                   notes=tuple(notes))  # fmt: skip


class Recording:
    """What the metadata of a recording say.

    Args:
        metadata: The JSON object.

    Attributes:
        count: Recorded frames.
        width: Width of the photos that the intrinsics are for, pixels.
        height: Their height.
        notes: What the user should know.

    Raises:
        CaptureError: A field is missing or of the wrong kind, or the recording has no poses.
    """

    def __init__(self, metadata: Fields) -> None:
        self.notes: list[str] = []
        self.width, self.height = metadata.size("w"), metadata.size("h")
        self.poses = _rows(metadata, "poses", 7)
        self.count = len(self.poses)
        if not self.poses or (self.count > 1 and len(set(self.poses)) == 1):
            what = "no poses" if not self.poses else f"all {self.count} poses are the same"
            raise CaptureError(what, where=metadata.path, hint=POSES_NEEDED)
        self.K = _column_major(metadata)
        self._each: list[tuple[float, ...]] = []
        if metadata.get("perFrameIntrinsicCoeffs"):
            self._each = _rows(metadata, "perFrameIntrinsicCoeffs", 4)
        if self._each and len(self._each) != self.count:
            self.notes.append(
                f"perFrameIntrinsicCoeffs has {len(self._each)} entries for {self.count} poses: "
                "K is taken for all frames"
            )
            self._each = []

    def intrinsics(self, number: int) -> Tensor:
        """``[3, 3]`` K of one frame."""
        return intrinsics(*self._each[number]) if self._each else self.K.clone()

    def world_from_camera(self, number: int) -> Tensor:
        """``[4, 4]`` pose of one frame, OpenCV axes; NaN where the quaternion is zero."""
        qx, qy, qz, qw, *translation = self.poses[number]
        pose = pose_matrix((qw, qx, qy, qz, *translation))
        return pose * torch.tensor(OPENGL_TO_OPENCV, dtype=torch.float64)


def _rows(metadata: Fields, field: str, length: int) -> list[tuple[float, ...]]:
    """A list of lists of finite numbers; empty if the field is absent."""
    values = metadata.get(field)
    if values is None:
        return []
    if not isinstance(values, list):
        metadata.fail("expected a list", field)
    rows = Fields({f"{field}[{i}]": row for i, row in enumerate(values)}, metadata.path)
    result = []
    for i in range(len(values)):
        row = rows.numbers(f"{field}[{i}]")
        if len(row) != length:
            rows.fail(f"{len(row)} numbers, expected {length}", f"{field}[{i}]")
        result.append(row)
    return result


def _column_major(metadata: Fields) -> Tensor:
    values = metadata.numbers("K")
    if len(values) != 9:
        metadata.fail(f"{len(values)} numbers, expected 9", "K")
    fx, _, _, _, fy, _, cx, cy, _ = values
    K = intrinsics(fx, fy, cx, cy)
    rest = torch.tensor(values, dtype=torch.float64).reshape(3, 3).T - K
    if not bool((rest.abs() <= 1e-6 * K.abs().max()).all()):
        metadata.fail("expected the columns of [fx 0 cx; 0 fy cy; 0 0 1]", "K")
    return K


def _view(root: Path, recording: Recording, number: int, photo: Path) -> View:
    K = recording.intrinsics(number)
    width, height = recording.width, recording.height
    depth_path, depth_camera = depth_beside(root / "depth" / f"{number}.png", K, width, height)
    return View(
        name=photo.relative_to(root).as_posix(),
        image_path=photo,
        viewmat=invert_pose(recording.world_from_camera(number)),
        K=K,
        width=width,
        height=height,
        depth_path=depth_path,
        depth_camera=depth_camera,
    )


def _depth_notes(root: Path, folder: Path, views: tuple[View, ...]) -> list[str]:
    """What is said of depth that is there and cannot be read."""
    if any(view.depth_path is not None for view in views):
        return []
    if next(folder.glob("*.depth"), None) is not None:
        return [
            "depth left out, rgbd/*.depth is compressed with LZFSE: pip install pyliblzfse, then "
            "lift the .r3d file itself"
        ]
    if next((root / "depth").glob("*.exr"), None) is not None:
        return ["depth left out, depth/*.exr is not read: lift the .r3d file of the recording"]
    return []


READERS.add(
    "record3d",
    Reader("metadata and rgbd/0.jpg, ... (Record3D), or its EXR + JPG export", sniff, read),
)
