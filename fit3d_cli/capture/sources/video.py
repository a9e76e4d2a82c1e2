"""A video: its sharp frames that differ become photos, whose poses are then found.

Decoded as a stream by ffmpeg, which turns frames as the file says they are shown: the frames lie
upright on the disk and carry no rotation of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fit3d_cli.capture.sources.base import SOURCES, Source, SourceOptions
from fit3d_cli.capture.sources.photos import pose_photos
from fit3d_cli.capture.sources.picking import pick, thin
from fit3d_cli.capture.sources.sfm import require_pycolmap
from fit3d_cli.errors import CaptureError, ImageError
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.storage import temporary_sibling
from fit3d_cli.video import read_video

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_FEWEST = 3
_QUALITY = 95
_TELL_EVERY = 10  # frames


def sniff(path: Path) -> bool:
    """Whether it is a file with the suffix of a video."""
    try:
        return path.suffix.lower() in SUFFIXES and path.is_file()
    except OSError:
        return False


def describe(path: Path) -> str:
    """The kind of video."""
    return f"{path.suffix[1:].upper()} video"


def make(path: Path, folder: Path, options: SourceOptions, on_event: OnEvent) -> None:
    """Choose frames and find their poses.

    Args:
        path: The video.
        folder: Empty folder to fill.
        options: ``frames`` at most (0 = all that differ) and those of photos.
        on_event: Told about progress.

    Raises:
        CaptureError: Too few frames that differ, or too few poses found.
        ImageError: Not a readable video, or cut off.
        EnvironmentFault: No decoder, or pycolmap is not installed.
        StorageError: A frame cannot be written.
    """
    require_pycolmap(path)
    images = folder / "images"
    facts, frames = read_video(path)
    total = round(facts.seconds * facts.fps)
    stage = f"{path.stem}: frames that differ"
    seen = 0

    def watched() -> Iterator[NDArray[np.uint8]]:
        nonlocal seen
        for frame in frames:
            if seen % _TELL_EVERY == 0:
                on_event(Progress(stage, min(seen, max(total - 1, 0)), total, f"{len(kept)} kept"))
            seen += 1
            yield frame

    kept: list[Path] = []
    sharp: list[float] = []
    for picked in pick(watched()):
        place = images / f"frame_{picked.index:06d}.jpg"
        with temporary_sibling(place) as temporary:
            # Chroma is kept whole: features are found on grey, but tokens see colour.
            Image.fromarray(picked.frame).save(temporary, quality=_QUALITY, subsampling=0)
        kept.append(place)
        sharp.append(picked.sharpness)
    if seen == 0:
        raise ImageError("a video without frames", where=path, hint="copy it again")
    on_event(Progress(stage, max(total, seen), max(total, seen), f"{len(kept)} kept"))
    if len(kept) < _FEWEST:
        raise CaptureError(
            f"only {len(kept)} of {seen} frames differ: the camera hardly moves",
            where=path,
            hint="film while walking around the scene, not from one spot",
        )
    chosen = set(thin(sharp, options.frames))
    for index, place in enumerate(kept):
        if index not in chosen:
            place.unlink()
    files = [place for index, place in enumerate(kept) if index in chosen]
    pose_photos(
        path, files, folder, replace(options, camera="single"), on_event, ordered=True,
        facts={"video_frames": seen, "differing": len(kept)},
    )  # fmt: skip


def _room(path: Path) -> int:
    """Frames as JPEG are larger than the video; most of the video's frames are not kept."""
    return 4 * path.stat().st_size + (64 << 20)


SOURCES.add(
    "video",
    Source(
        f"a video ({', '.join(SUFFIXES)}): sharp frames that differ, poses found with pycolmap",
        sniff,
        make,
        lambda path: [path],
        ("frames", "matcher", "max_side", "min_registered", "seed"),
        describe,
        _room,
    ),
)
