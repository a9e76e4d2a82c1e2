"""What a capture is, and the contract of a reader.

A reader is one file in this package that calls ``READERS.add(name, Reader(...))``. Its
``sniff(path)`` says whether the directory is laid out its way (no exception: "not mine" is
False); its ``read(path)`` returns a ``Capture`` or raises ``CaptureError`` naming the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fit3d_cli.registry import Registry
from fit3d_cli.shapes import check_dims


@dataclass(frozen=True)
class Distortion:
    """Lens distortion of the stored picture; ``images`` are undistorted when loaded.

    Attributes:
        model: ``"opencv"`` (k1 k2 p1 p2 k3 k4 k5 k6, radial-tangential) or ``"fisheye"``
            (k1 k2 k3 k4, OpenCV's equidistant fisheye).
        params: Coefficients in that order, padded with zeros.
    """

    model: str
    params: tuple[float, ...]


@dataclass(frozen=True)
class DepthCamera:
    """Camera of a depth map that is not registered to the photo's pixels.

    Attributes:
        K: ``[3, 3]`` float64 intrinsics of the stored depth map, pixel centres at +0.5.
        photo_from_depth: ``[4, 4]`` float64, depth camera to photo camera, OpenCV axes, world
            units; the identity for one lens at two resolutions or crops.
    """

    K: Tensor
    photo_from_depth: Tensor

    def __post_init__(self) -> None:
        check_dims(K=(self.K, "3 3"), photo_from_depth=(self.photo_from_depth, "4 4"))


@dataclass(frozen=True)
class View:
    """One photo with its camera.

    Attributes:
        name: POSIX path of the photo relative to the capture, unique in the capture.
        image_path: Where the photo lies.
        viewmat: ``[4, 4]`` float64, world to camera, OpenCV axes.
        K: ``[3, 3]`` float64 intrinsics of the stored photo, pixel centres at +0.5.
        width: Width of the stored photo, pixels.
        height: Height of the stored photo, pixels.
        distortion: Lens distortion of the stored photo, or None for a pinhole.
        depth_path: 16-bit depth map along the optical axis, or None.
        depth_scale: Depth units per world unit (1000 for millimetres in a metric world).
        mask_path: 8-bit mask, non-zero = use, or None.
        depth_camera: Camera of the depth map; None where it lies on the photo's pixel grid.
        depth_unknown: Stored values that mean "no depth" beside 0 (65535 in 7-Scenes).
    """

    name: str
    image_path: Path
    viewmat: Tensor
    K: Tensor
    width: int
    height: int
    distortion: Distortion | None = None
    depth_path: Path | None = None
    depth_scale: float = 1000.0
    mask_path: Path | None = None
    depth_camera: DepthCamera | None = None
    depth_unknown: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_dims(viewmat=(self.viewmat, "4 4"), K=(self.K, "3 3"))


@dataclass(frozen=True)
class SparsePoints:
    """Structure-from-motion points.

    Attributes:
        xyz: ``[M, 3]`` float64, world.
        rgb: ``[M, 3]`` uint8.
    """

    xyz: Tensor
    rgb: Tensor

    def __post_init__(self) -> None:
        check_dims(xyz=(self.xyz, "M 3"), rgb=(self.rgb, "M 3"))


@dataclass(frozen=True)
class Capture:
    """A directory of posed photos.

    Attributes:
        name: Name of the scene, from the directory.
        root: The directory.
        reader: Name of the reader that understood it.
        views: At least two views, sorted by name; digits count as numbers.
        points: Sparse points, or None.
        metric: Whether the world unit is the metre.
        dropped: Why views were left out, to how many: ``{"non-finite pose": 3}``.
        notes: What the user should know, one line each (e.g. which of several models was taken).
    """

    name: str
    root: Path
    reader: str
    views: tuple[View, ...]
    points: SparsePoints | None = None
    metric: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """One on-disk layout.

    Attributes:
        layout: What the layout looks like, one line, shown when nothing fits.
        sniff: Whether a directory has this layout; must not raise.
        read: Reads it, or raises ``CaptureError``.
    """

    layout: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path], Capture]


READERS: Registry[Reader] = Registry("capture reader", "fit3d_cli.capture")
