"""What has to be unpacked, or to get its poses, before it can be read as a capture.

A source is one file in this package that calls ``SOURCES.add(name, Source(...))``: a ``.sens`` or
``.r3d`` container, a video, a folder of photos without poses. ``make`` fills an empty folder with
a capture of a layout that a reader knows. The folder lies in the workspace
(``captures/<name>``), so that later verbs read it like any capture and the source can move away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli.progress import OnEvent
from fit3d_cli.registry import Registry


@dataclass(frozen=True)
class SourceOptions:
    """How sources are made into captures.

    Attributes:
        frames: Frames to take from a video or container, at most; 0 = all that differ.
        matcher: ``auto``, ``exhaustive`` or ``sequential``: which photos are matched for poses.
        camera: ``auto``, ``single`` or ``per-image``: which photos share a lens.
        max_side: Longest side in pixels of the photos in which features are found.
        min_registered: Least share of the photos that must get a pose.
        seed: Of every random draw.
    """

    frames: int = 0
    matcher: str = "auto"
    camera: str = "auto"
    max_side: int = 1600
    min_registered: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """One kind of source.

    Attributes:
        layout: What it looks like, one line, shown when nothing fits.
        sniff: Whether a file or directory is of this kind; must not raise.
        make: ``make(path, folder, options, on_event)`` fills the empty ``folder``; raises
            ``CaptureError``, ``ImageError`` or ``EnvironmentFault``.
        files: The files whose content decides the result, for recognising finished work.
        options: Names of the ``SourceOptions`` that it uses.
        describe: What was found, one line; the layout where None.
        room: Bytes that the capture takes, roughly; as much as ``files`` where None.
    """

    layout: str
    sniff: Callable[[Path], bool]
    make: Callable[[Path, Path, SourceOptions, OnEvent], None]
    files: Callable[[Path], list[Path]]
    options: tuple[str, ...] = ()
    describe: Callable[[Path], str] | None = None
    room: Callable[[Path], int] | None = None


SOURCES: Registry[Source] = Registry("capture source", "fit3d_cli.capture.sources")
