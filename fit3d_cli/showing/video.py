"""A video beside what the models make of it, in colours that hold from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.errors import ImageError, SettingsError
from fit3d_cli.images import save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.showing.marking import marked_picture
from fit3d_cli.showing.palette import Look, Palette, fit_palette
from fit3d_cli.showing.pictures import Shown, sheet_of, small
from fit3d_cli.showing.point import Point, parse_point
from fit3d_cli.showing.sampling import FIT_BYTES, Viewer
from fit3d_cli.storage import require_writable
from fit3d_cli.video import VideoFacts, read_video, save_video
from fit3d_cli.viz import Panel

MAX_FIT = 48
_UNKNOWN_FPS = 25.0
_MIN_SAMPLE_FPS = 0.02

Frame = NDArray[np.uint8]


def show_video(
    path: Path,
    viewer: Viewer,
    out: Path,
    look: Look,
    *,
    fps: float = 10.0,
    point: str = "",
    sheet: int = 24,
    on_event: OnEvent = ignore,
) -> Shown:
    """Write the feature video and a contact sheet.

    The video is decoded twice: once for a sample of at most ``MAX_FIT`` evenly spread frames, on
    which the colours are fitted, once to paint. Neither keeps more frames than that in memory.

    Args:
        path: The video.
        viewer: The models.
        out: An ``.mp4`` or ``.gif`` file, or a directory for ``<name>.mp4``.
        look: What is to be seen.
        fps: Frames per second of playing time, at most those of the video.
        point: For ``similarity``: ``X,Y`` in the first frame.
        sheet: Frames on the contact sheet at most; 0 = no sheet.
        on_event: Progress listener.

    Raises:
        SettingsError: The point is no point, or ``out`` is another kind of file.
        ImageError: The video cannot be read, or has no frame.
        StorageError: The video cannot be written.
    """
    start = parse_point(point, [path.name]) if look.method == "similarity" else None
    if out.suffix.lower() in (".png", ".html"):
        raise SettingsError(
            "a video becomes a video", where=f"--out {out}", hint="name an .mp4, a .gif or a folder"
        )
    target = out if out.suffix.lower() in (".mp4", ".gif") else out / f"{path.stem}.mp4"
    require_writable(target.parent)
    facts, frames = read_video(path)
    first = next(frames, None)
    if first is None:
        raise ImageError("a video without frames", where=path, hint="record it again")
    queries = _queries(first, facts, viewer, start) if start else []
    maps = _sample(path, first, facts, viewer, on_event)
    palette = fit_palette(viewer.labels, maps, look, queries)
    rate = min(fps, facts.fps or _UNKNOWN_FPS)
    total = max(1, round(facts.seconds * rate))
    tiles: dict[int, list[Panel]] = {}
    every = max(1, -(-total // sheet)) if sheet else 0

    def painted() -> Iterator[Frame]:
        _, stream = read_video(path, fps=rate)
        shown, seen = tee(stream)
        for number, (frame, tokens) in enumerate(zip(shown, viewer.look(seen), strict=True)):
            panels = _panels(frame, tokens, palette, viewer, start if number == 0 else None, facts)
            if every and number % every == 0:
                named = Panel(f"{number / rate:.1f} s", panels[0].picture)
                tiles[number] = [small(panel) for panel in (named, *panels[1:])]
            on_event(Progress("frames", min(number + 1, total), total))
            yield viz.side_by_side(panels)

    save_video(target, painted(), rate)
    on_event(Progress("frames", total, total))
    contact = target.with_name(f"{target.stem}-sheet.png") if tiles else None
    if contact is not None:
        save_png(contact, sheet_of(list(tiles.values())))
    return Shown((), contact, None, target, len(maps[0]))


def _panels(
    frame: Frame, tokens: list[Tensor], palette: Palette, viewer: Viewer, start: Point | None,
    facts: VideoFacts,
) -> list[Panel]:  # fmt: skip
    photo = viewer.photo(frame)
    shown = marked_picture(photo, start, (facts.width, facts.height))
    return [Panel("video", shown), *palette.panels(tokens, photo)]


def _queries(first: Frame, facts: VideoFacts, viewer: Viewer, start: Point) -> list[Tensor]:
    found = []
    for tokens in next(viewer.look([first])):
        size = (facts.width, facts.height)
        row, column = start.token(size, (tokens.shape[0], tokens.shape[1]))
        found.append(tokens[row, column])
    return found


def _sample(
    path: Path, first: Frame, facts: VideoFacts, viewer: Viewer, on_event: OnEvent
) -> list[list[Tensor]]:
    """For each model the token maps of evenly spread frames."""
    size = sum(tokens.nbytes for tokens in next(viewer.look([first])))
    count = min(MAX_FIT, max(1, FIT_BYTES // size))
    rate = count / facts.seconds if facts.seconds > 0 else 1.0
    _, frames = read_video(path, fps=max(_MIN_SAMPLE_FPS, min(rate, facts.fps or _UNKNOWN_FPS)))
    kept: list[list[Tensor]] = []
    for number, tokens in enumerate(viewer.look(frames)):
        # The length that a file claims may be wrong: what comes late is not kept.
        if number < count:
            kept.append(tokens)
            on_event(Progress("features", number + 1, count))
        else:
            break
    return [list(maps) for maps in zip(*kept, strict=True)]
