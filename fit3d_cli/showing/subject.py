"""Whatever the user named, shown: a picture, a folder, a capture or a video."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.capture.photos import Photos, photos_of_path
from fit3d_cli.errors import SettingsError
from fit3d_cli.progress import OnEvent, ignore
from fit3d_cli.settings import VizSettings
from fit3d_cli.showing.palette import Look
from fit3d_cli.showing.pictures import Shown, show_pictures
from fit3d_cli.showing.sampling import Viewer
from fit3d_cli.showing.video import show_video
from fit3d_cli.video import VIDEO_SUFFIXES


def find_subject(path: Path) -> Photos | Path:
    """The photos at ``path``, or ``path`` itself if it is a video.

    Raises:
        ImageError: Neither.
        CaptureError: A capture that cannot be read.
    """
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return path
    return photos_of_path(path)


def look_of(settings: VizSettings, seed: int) -> Look:
    """What is to be seen.

    Raises:
        SettingsError: The settings contradict each other.
    """
    similar = settings.method == "similarity"
    if settings.point and not similar:
        raise SettingsError(
            f"{settings.method} starts from no point", where="--point",
            hint="add --method similarity",
        )  # fmt: skip
    if similar and not settings.point:
        raise SettingsError(
            "similarity to what?", where="--method similarity",
            hint="add --point X,Y (pixels of the first picture) or --point IMAGE:X,Y; to try "
            "many points, use --html",
        )  # fmt: skip
    if similar and settings.foreground:
        raise SettingsError(
            "similarity shows every token", where="--foreground",
            hint="leave it out, or use --method pca",
        )  # fmt: skip
    return Look(settings.method, settings.clusters, settings.foreground, settings.upscale, seed)


def show_subject(
    subject: Photos | Path,
    viewer: Viewer,
    settings: VizSettings,
    *,
    out: Path,
    page: bool = False,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> Shown:
    """Show photos or a video.

    Args:
        subject: From ``find_subject``.
        viewer: The models.
        settings: Of the verb.
        out: A directory or a file, see ``show_pictures`` and ``show_video``.
        page: Also write the page to click in.
        seed: Of the fits.
        on_event: Progress listener.

    Raises:
        Fit3dError: Something is missing or damaged, or nothing can be written.
    """
    look = look_of(settings, seed)
    if isinstance(subject, Path):
        if page:
            raise SettingsError(
                "a video has no page to click in", where="--html",
                hint="name a picture or a folder of pictures",
            )  # fmt: skip
        return show_video(
            subject, viewer, out, look,
            fps=settings.fps, point=settings.point, sheet=settings.tiles, on_event=on_event,
        )  # fmt: skip
    return show_pictures(
        subject, viewer, out, look,
        point=settings.point, sheet=settings.tiles, page=page, on_event=on_event,
    )  # fmt: skip
