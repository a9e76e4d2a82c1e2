"""TAP-Vid DAVIS (Doersch et al., 2022): 30 videos with tracked points.

Layout: the published ``tapvid_davis.pkl``, a pickled dict from the video's name to ``video``
``[T, H, W, 3]`` uint8, ``points`` ``[P, T, 2]`` x, y in 0..1 and ``occluded`` ``[P, T]`` bool. It
is read by ``plain_pickle``, which runs nothing that a pickle may ask for; frames stay mapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.datasets.plain_pickle import read_plain_pickle
from fit3d_cli.errors import DatasetError

NAME = "tapvid_davis.pkl"
LAYOUT = f"{NAME} or tapvid_davis/{NAME}"
SOURCE = (
    "https://storage.googleapis.com/dm-tapnet/tapvid_davis.zip (annotations CC BY 4.0; the videos"
    " of DAVIS are under Creative Commons licences of their makers)"
)
_MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class TrackedVideo:
    """A video with points that were followed by hand.

    Attributes:
        name: Unique in the dataset.
        frames: ``[T, H, W, 3]`` uint8, possibly mapped from disk.
        points: ``[P, T, 2]`` float64 x, y in 0..1 of width and height, (0, 0) being the corner of
            the top left pixel; meaningless where occluded.
        occluded: ``[P, T]`` bool.
    """

    name: str
    frames: NDArray[np.uint8]
    points: Tensor
    occluded: Tensor


@dataclass(frozen=True)
class Queries:
    """Points to be followed, each from one frame.

    Attributes:
        track: ``[Q]`` int64 index of the point.
        frame: ``[Q]`` int64 frame in which it is given.
    """

    track: Tensor
    frame: Tensor


def strided_queries(video: TrackedVideo, stride: int = 5) -> Queries:
    """TAP-Vid's "strided" queries: every point that is visible in frame 0, 5, 10, ...

    Args:
        video: The video.
        stride: Frames between queries.
    """
    frames = torch.arange(0, video.occluded.shape[1], stride)
    frame, track = torch.nonzero(~video.occluded[:, frames].T, as_tuple=True)
    return Queries(track, frames[frame])


def read_tapvid(root: Path) -> tuple[TrackedVideo, ...]:
    """All videos, sorted by name.

    Args:
        root: The folder of the file, the folder above it, or the file itself.

    Raises:
        DatasetError: Absent, damaged, or not the published structure.
    """
    places = [root, root / NAME, root / "tapvid_davis" / NAME]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DatasetError(
            f"not found, or not laid out as {LAYOUT}",
            where=root,
            hint=f"get it from {SOURCE} and name it with --data DIR",
        )
    content = read_plain_pickle(path)
    if type(content) is not dict or not content:
        raise _unlike(path, "not a dict of videos")
    videos = {}
    for key, entry in content.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        videos[name] = _video(path, name, entry)
    return tuple(videos[name] for name in sorted(videos))


def _video(path: Path, name: str, entry: Any) -> TrackedVideo:
    if type(entry) is not dict:
        raise _unlike(path, f"{name}: not a dict")
    fields = {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in entry.items()}
    arrays = [fields.get(name) for name in ("video", "points", "occluded")]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise _unlike(path, f"{name}: video, points and occluded are not all arrays")
    frames, points, occluded = cast("list[NDArray[Any]]", arrays)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise _unlike(path, f"{name}: video is {frames.dtype}{list(frames.shape)}")
    if frames.shape[1] * frames.shape[2] > _MAX_PIXELS:
        raise _unlike(path, f"{name}: frames above 64 megapixels")
    expected = (points.shape[0] if points.ndim == 3 else 0, frames.shape[0])
    if points.shape != (*expected, 2) or occluded.shape != expected:
        raise _unlike(
            path,
            f"{name}: points {list(points.shape)} and occluded {list(occluded.shape)} for"
            f" {frames.shape[0]} frames",
        )
    hidden = torch.from_numpy(occluded.astype(bool))
    places = torch.from_numpy(points.astype(np.float64))
    if not bool(torch.isfinite(places[~hidden]).all()):
        raise _unlike(path, f"{name}: a visible point is not finite")
    return TrackedVideo(name, frames, places, hidden)


def _unlike(path: Path, what: str) -> DatasetError:
    return DatasetError(what, where=path, hint="use the published file")
