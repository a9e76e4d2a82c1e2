"""Videos: frames of any that ffmpeg reads; short ones written as ``.mp4`` (H.264) or ``.gif``."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fit3d_cli.errors import EnvironmentFault, ImageError, StorageError
from fit3d_cli.storage import temporary_sibling

_DURATION = re.compile(r"Duration: (\d+):(\d+):([\d.]+)")
_RATE = re.compile(r"Video: .*?([\d.]+) fps")
_TOLD = ("Duration:", "Stream #")  # lines of ffmpeg's that hold these facts
_LINE = 300  # characters of a line that are looked at; a title in the file may have millions
_PATIENCE = 120.0  # seconds in which a first frame must come
# Containers of the suffixes below, by the names of their readers in ffmpeg. A playlist is none: it
# would open other files.
_CONTAINERS = "mov,matroska,webm,avi,gif,mpeg,mpegts,mpegvideo"
_MAX_PIXELS = 100_000_000  # of a frame
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg")


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says of itself.

    Attributes:
        width: Of a frame as shown, pixels.
        height: Of a frame as shown, pixels.
        fps: Frames per second; 0 when unknown.
        seconds: Length; 0 when unknown.
    """

    width: int
    height: int
    fps: float
    seconds: float


def read_video(path: Path, *, fps: float = 0.0) -> tuple[VideoFacts, Iterator[NDArray[np.uint8]]]:
    """Decode a video, frame by frame.

    Args:
        path: A file; nothing else is opened, whatever a playlist in it says.
        fps: Frames per second of playing time to take; 0 = all.

    Returns:
        The facts of the file, and its frames ``[H, W, 3]`` uint8, upright.

    Raises:
        ImageError: Not a video that can be read; also while iterating, where it is cut off.
        EnvironmentFault: There is no ffmpeg.
    """
    options = ["-vf", f"fps={fps:g}"] if fps > 0 else []
    told = _ask(path, ["-frames:v", "1", "-f", "null"])
    seconds, rate = _DURATION.search(told), _RATE.search(told)
    frames = _decode(path, options)
    first = next(frames, None)
    if first is None:
        raise _unreadable(path)
    length = 0.0
    if seconds:
        hours, minutes, rest = (float(word) for word in seconds.groups())
        length = 3600 * hours + 60 * minutes + rest
    facts = VideoFacts(first.shape[1], first.shape[0], float(rate[1]) if rate else 0.0, length)
    return facts, chain([first], frames)


def _command(path: Path, options: list[str]) -> list[str]:
    import imageio_ffmpeg  # looks for its ffmpeg binary, which nothing else needs

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise EnvironmentFault(
            "no video decoder can be started", where=path, hint="pip install imageio-ffmpeg"
        ) from error
    source = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS,
              "-max_pixels", str(_MAX_PIXELS), "-i", f"file:{path.absolute()}"]  # fmt: skip
    return [program, "-nostdin", "-hide_banner", *source, "-an", "-sn", *options]


def _ask(path: Path, options: list[str]) -> str:
    """What ffmpeg says of a file's length and streams."""
    try:
        done = subprocess.run(
            [*_command(path, options), "-"], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _unreadable(path, f"no frame within {_PATIENCE:.0f} s") from error
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    return "\n".join(line[:_LINE] for line in lines if line.lstrip().startswith(_TOLD))


def _decode(path: Path, options: list[str]) -> Iterator[NDArray[np.uint8]]:
    """Frames; a portable pixmap each, which says its own size."""
    command = [*_command(path, ["-v", "error", *options]), "-f", "image2pipe", "-c:v", "ppm", "-"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout is not None
        try:
            while magic := process.stdout.readline():
                size = process.stdout.readline().split()
                process.stdout.readline()  # the largest value, 255
                if magic != b"P6\n" or len(size) != 2:
                    raise _unreadable(path)
                width, height = map(int, size)
                raw = process.stdout.read(3 * width * height)
                if len(raw) < 3 * width * height:
                    raise _unreadable(path, "cut off")
                yield np.frombuffer(raw, np.uint8).reshape(height, width, 3).copy()
        finally:
            process.kill()  # it may still be decoding what nobody reads


def _unreadable(path: Path, why: str = "") -> ImageError:
    return ImageError(
        "cannot be read as a video" + (f" ({why})" if why else ""),
        where=path,
        hint="copy it again from the source, or convert it to .mp4",
    )


def save_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write an ``.mp4`` (H.264) or ``.gif``, frame by frame.

    Args:
        path: The suffix chooses the container.
        frames: ``[H, W, 3]`` uint8 pictures of one size, at least one. H.264 needs even sides:
            an odd one is padded by repeating its last row or column.
        fps: Frames per second.

    Raises:
        ImageError: The suffix is neither, or there is no frame.
        EnvironmentFault: The video encoder failed.
        StorageError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise ImageError(f"unknown video suffix {suffix!r}", where=path, hint="use .mp4 or .gif")
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise ImageError("a video without frames", where=path, hint="ask for at least one frame")
    with temporary_sibling(path) as temporary:
        if suffix == ".gif":
            _write_gif(temporary, first, stream, fps, where=path)
        else:
            _write_mp4(temporary, chain([first], stream), fps, where=path)


def _write_gif(
    path: Path, first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]], fps: float, *,
    where: Path,
) -> None:  # fmt: skip
    try:
        Image.fromarray(first).save(
            path, format="GIF", save_all=True, append_images=map(Image.fromarray, rest),
            duration=max(20, round(1000 / fps)), loop=0,
        )  # fmt: skip
    except OSError as error:
        raise StorageError(
            "the video cannot be written", where=where, hint="free some space on the disk"
        ) from error


def _write_mp4(path: Path, frames: Iterator[NDArray[np.uint8]], fps: float, *, where: Path) -> None:
    import imageio_ffmpeg  # looks for its ffmpeg binary, which nothing else needs

    first = next(frames)
    height, width = first.shape[:2]
    size = f"{width + width % 2}x{height + height % 2}"
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y",
                   "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:g}", "-i", "-",
                   "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-threads", "1",
                   # No encoder version and no date: the same frames give the same bytes.
                   "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1",
                   "-movflags", "+faststart", "-f", "mp4", str(path.absolute())]  # fmt: skip
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log
            )
            with process:
                assert process.stdin is not None
                try:
                    for frame in chain([first], frames):
                        if frame.shape != first.shape:
                            raise ImageError(
                                f"frame of {frame.shape[1]}x{frame.shape[0]} after one of "
                                f"{width}x{height}",
                                where=where,
                                hint="give frames of one size",
                            )
                        pad = ((0, height % 2), (0, width % 2), (0, 0))
                        process.stdin.write(np.pad(frame, pad, mode="edge").tobytes())
                    process.stdin.close()
                except BrokenPipeError:  # it ended early: its exit code and last words follow
                    _close_input(process)
                except BaseException:
                    process.kill()
                    _close_input(process)
                    raise
            if process.returncode != 0:
                log.seek(0)
                words = log.read().decode("utf-8", "replace").strip().splitlines()
                raise EnvironmentFault(
                    "the video encoder failed" + (f" ({words[-1]})" if words else ""),
                    where=where,
                    hint="check the free space, or write a .gif instead",
                )
    except (OSError, RuntimeError) as error:
        raise EnvironmentFault(
            "no video encoder can be started", where=where, hint="write a .gif instead"
        ) from error


def _close_input(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe to an encoder that has ended; what is still buffered goes nowhere."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
