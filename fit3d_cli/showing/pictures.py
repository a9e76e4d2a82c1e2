"""One picture per photo, a contact sheet of all, and on request the page to click in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.capture.photos import Photos, spread_over
from fit3d_cli.errors import SettingsError
from fit3d_cli.images import image_size, save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.showing.marking import marked_picture
from fit3d_cli.showing.page import PAGE_PICTURES, write_page
from fit3d_cli.showing.palette import Look, Palette, fit_palette
from fit3d_cli.showing.point import Point, parse_point
from fit3d_cli.showing.sampling import Viewer, sample_tokens
from fit3d_cli.storage import require_writable
from fit3d_cli.video import VIDEO_SUFFIXES
from fit3d_cli.viz import Panel
from fit3d_cli.viz.sharing import file_names

SHEET_NAME = "contact-sheet.png"
PAGE_NAME = "index.html"
_SHEET_HEIGHT = 180  # pixels of a picture
_SHEET_SHAPE = 1.6  # width over height that a contact sheet aims at


@dataclass(frozen=True)
class Shown:
    """What was written.

    Attributes:
        files: A picture per photo, in order; empty where a sheet or a page alone was asked for.
        sheet: The contact sheet.
        page: The page to click in.
        video: The feature video.
        fitted: Photos or frames that the colours were fitted on.
    """

    files: tuple[Path, ...] = ()
    sheet: Path | None = None
    page: Path | None = None
    video: Path | None = None
    fitted: int = 0


def show_pictures(
    photos: Photos,
    viewer: Viewer,
    out: Path,
    look: Look,
    *,
    point: str = "",
    sheet: int = 24,
    page: bool = False,
    on_event: OnEvent = ignore,
) -> Shown:
    """Write each photo beside what the models make of it.

    Memory does not grow with the number of photos: the colours are fitted on a sample
    (``sample_tokens``), then the photos are painted one by one.

    Args:
        photos: At least one.
        viewer: The models.
        out: A directory; or a ``.png`` file, which gets the picture of a single photo and the
            contact sheet of several; or an ``.html`` file for the page alone.
        look: What is to be seen.
        point: For ``similarity``: ``X,Y`` or ``IMAGE:X,Y``.
        sheet: Photos on the contact sheet at most, evenly spread; 0 = no sheet.
        page: Also write the page to click in, of at most ``PAGE_PICTURES`` photos.
        on_event: Progress listener.

    Raises:
        SettingsError: The point is no point, or several pictures would go into one file.
        ImageError: A photo cannot be read.
        StorageError: A picture cannot be written.
    """
    start = parse_point(point, photos.names) if look.method == "similarity" else None
    plan = _plan(photos, out, sheet, page, start)
    for file in (plan.sheet, plan.page, *plan.files[:1]):
        if file is not None:
            require_writable(file.parent)
    queries = _queries(photos, viewer, start) if start else []
    fitted = 0
    if plan.files or plan.sheet:
        kept = sample_tokens(photos.paths, viewer, on_event)
        seen = [list(maps) for maps in zip(*kept.values(), strict=True)]
        palette, fitted = fit_palette(viewer.labels, seen, look, queries), len(kept)
        tiles = _paint(photos, viewer, palette, plan, kept, start, on_event)
        if plan.sheet is not None:
            save_png(plan.sheet, sheet_of(tiles))
    if plan.page is not None:
        write_page(plan.page, photos.spread(PAGE_PICTURES), viewer, on_event=on_event)
    return Shown(plan.files, plan.sheet, plan.page, None, fitted)


@dataclass(frozen=True)
class _Plan:
    """Which files to write; ``tiles`` are the photos of the sheet."""

    files: tuple[Path, ...] = ()
    sheet: Path | None = None
    tiles: frozenset[int] = frozenset()
    page: Path | None = None


def _plan(photos: Photos, out: Path, sheet: int, page: bool, start: Point | None) -> _Plan:
    count, kind = len(photos.paths), out.suffix.lower()
    if kind == ".html":
        return _Plan(page=out)
    tiles = set(spread_over(count, sheet)) if count > 1 and sheet else set()
    if tiles and start:
        tiles |= {start.index}
    if kind == ".png":
        beside = out.with_suffix(".html") if page else None
        if count == 1:
            return _Plan((out,), page=beside)
        if not tiles:
            raise SettingsError(
                f"{count} pictures do not fit into one file", where=f"--out {out}",
                hint="name a directory, or set viz.sheet above 0 for a contact sheet",
            )  # fmt: skip
        return _Plan((), out, frozenset(tiles), beside)
    if kind in VIDEO_SUFFIXES:
        raise SettingsError(
            "pictures make no film", where=f"--out {out}",
            hint=f"name a folder, or a contact sheet such as {out.with_suffix('.png').name}",
        )  # fmt: skip
    files = tuple(out / name for name in file_names(photos.names, taken=(SHEET_NAME,)))
    contact = out / SHEET_NAME if tiles else None
    return _Plan(files, contact, frozenset(tiles), out / PAGE_NAME if page else None)


def _queries(photos: Photos, viewer: Viewer, start: Point) -> list[Tensor]:
    """Each model's token ``[C]`` at the point."""
    path = photos.paths[start.index]
    size = image_size(path)
    found = []
    for tokens in next(viewer.look([path])):
        row, column = start.token(size, (tokens.shape[0], tokens.shape[1]))
        found.append(tokens[row, column])
    return found


def _paint(
    photos: Photos,
    viewer: Viewer,
    palette: Palette,
    plan: _Plan,
    kept: dict[int, list[Tensor]],
    start: Point | None,
    on_event: OnEvent,
) -> list[list[Panel]]:
    """Write the pictures; returns the tiles of the contact sheet."""
    wanted = range(len(photos.paths)) if plan.files else sorted(plan.tiles)
    stream = viewer.look(photos.paths[i] for i in wanted if i not in kept)
    tiles = []
    for done, index in enumerate(wanted, 1):
        path, label = photos.paths[index], photos.names[index]
        tokens = kept.pop(index) if index in kept else next(stream)
        photo = viewer.photo(path)
        marks = start if start and start.index == index else None
        shown = marked_picture(photo, marks, image_size(path))
        panels = palette.panels(tokens, photo)
        if plan.files:
            row = [Panel("photo", shown), *panels]
            save_png(plan.files[index], viz.side_by_side(row, title=label))
        if index in plan.tiles:
            tiles.append([small(Panel(label, shown)), *map(small, panels)])
        on_event(Progress("pictures", done, len(wanted), label))
    return tiles


def sheet_of(tiles: Sequence[Sequence[Panel]]) -> viz.panels.Picture:
    """A contact sheet: tiles (a photo and its pictures) in rows, about as wide as a screen.

    Args:
        tiles: At least one.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    widest = max(sum(panel.picture.shape[1] for panel in tile) for tile in tiles)
    row_height = _SHEET_HEIGHT * 1.15  # with its caption
    columns = round(math.sqrt(_SHEET_SHAPE * len(tiles) * row_height / widest))
    columns = max(1, min(columns, len(tiles)))
    rows = [
        [panel for tile in tiles[first : first + columns] for panel in tile]
        for first in range(0, len(tiles), columns)
    ]
    return viz.contact_sheet(rows, height=_SHEET_HEIGHT)


def small(panel: Panel) -> Panel:
    """The panel at the sheet's height: memory for a hundred tiles instead of ten."""
    height, width = panel.picture.shape[:2]
    size = (max(1, round(width * _SHEET_HEIGHT / height)), _SHEET_HEIGHT)
    small = Image.fromarray(panel.picture).resize(size, Image.Resampling.LANCZOS)
    return Panel(panel.caption, np.asarray(small, dtype=np.uint8))
