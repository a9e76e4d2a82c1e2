"""``fit3d viz`` of a scene: its held-out views, rendered, beside their photos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.archive import read_archive
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import CaptureError, ImageError
from fit3d_cli.images import read_image, resize_image, save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.rendering import render_maps, scaled_cameras
from fit3d_cli.scene import Scene
from fit3d_cli.storage import require_writable
from fit3d_cli.viz import Panel
from fit3d_cli.viz.panels import Picture
from fit3d_cli.workspace import Workspace

MAX_VIEWS = 8
WIDTH = 320


@dataclass(frozen=True)
class RenderedView:
    """One view of a scene.

    Attributes:
        name: View name.
        rgb: ``[H, W, 3]`` rendered colour in 0..1.
        depth: ``[H, W]`` rendered depth, 0 where nothing was hit.
        alphas: ``[H, W]`` opacity in 0..1.
        features: ``[H, W, d]`` rendered features, fading with ``alphas``.
        photo: ``[H, W, 3]`` the photo in 0..1, or None where it is not at hand.
    """

    name: str
    rgb: Tensor
    depth: Tensor
    alphas: Tensor
    features: Tensor
    photo: Tensor | None = None


def viz_scene(
    archive: Path,
    out: Path,
    *,
    workspace: Path,
    method: Literal["pca", "kmeans"] = "pca",
    clusters: int = 6,
    captures: Path | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> Path:
    """Write a contact sheet of a scene's held-out views (of all, if it has none held out).

    At most ``MAX_VIEWS`` evenly spread views are shown. Photos are shown where the capture is at
    hand.

    Args:
        archive: A ``.f3d`` file.
        out: A ``.png`` file, or a directory for ``<scene>.png``.
        workspace: Remembers where the capture lies.
        method: How features become colours.
        clusters: k of k-means.
        captures: Where the capture lies now.
        seed: Of the fit.
        on_event: Progress listener.

    Returns:
        The file.

    Raises:
        ArchiveError: Not a readable scene.
        CaptureError: ``captures`` was given and is no capture.
        StorageError: The picture cannot be written.
    """
    scene = read_archive(archive)
    indices = scene.views(heldout=True) or list(range(len(scene.names)))
    if len(indices) > MAX_VIEWS:
        indices = [indices[(2 * i + 1) * len(indices) // (2 * MAX_VIEWS)] for i in range(MAX_VIEWS)]
    file = out if out.suffix.lower() == ".png" else out / f"{scene.name}.png"
    require_writable(file.parent)
    photos = _photos(scene, Workspace(workspace), captures)
    views = []
    for done, index in enumerate(indices):
        on_event(Progress("render", done, len(indices), scene.names[index]))
        views.append(_view(scene, index, photos.get(scene.names[index])))
    on_event(Progress("render", len(indices), len(indices)))
    save_png(file, scene_sheet(views, method=method, clusters=clusters, seed=seed))
    return file


def scene_sheet(
    views: Sequence[RenderedView],
    *,
    method: Literal["pca", "kmeans"] = "pca",
    clusters: int = 6,
    seed: int = 0,
) -> Picture:
    """A row per view: photo, rendered colour, depth, features in colours shared by all views.

    Args:
        views: At least one.
        method: How features become colours.
        clusters: k of k-means.
        seed: Of the fit.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    # Features fade with alpha; divided by it they are what is there.
    solid = [view.features / view.alphas[..., None].clamp(min=1e-3) for view in views]
    covered = [view.alphas > 0.5 for view in views]
    rows = torch.cat([s[c] for s, c in zip(solid, covered, strict=True)])
    if not len(rows):  # nothing is covered: show what little there is
        rows = torch.cat([s.flatten(0, 1) for s in solid])
    paint = (
        viz.fit_pca(rows, seed=seed) if method == "pca" else viz.kmeans(rows, clusters, seed=seed)
    )
    label = "features: PCA" if method == "pca" else "features: k-means"
    sheet = []
    for view, features in zip(views, solid, strict=True):
        row = [] if view.photo is None else [Panel("photo", viz.to_uint8(view.photo))]
        row.append(Panel("rendered", viz.to_uint8(view.rgb)))
        row.append(Panel("depth", viz.to_uint8(viz.depth_to_rgb(view.depth))))
        colours = paint(features) * view.alphas[..., None].clamp(0, 1)
        row.append(Panel(label, viz.to_uint8(colours)))
        sheet.append(row)
    return viz.contact_sheet(sheet, titles=[view.name for view in views])


def _view(scene: Scene, index: int, photo: Path | None) -> RenderedView:
    camera = scaled_cameras(scene.cameras[index], WIDTH)[0]
    maps = render_maps(scene, camera, features=True)
    assert maps.features is not None
    height, width = maps.rgb.shape[:2]
    shown = None
    if photo is not None:
        with suppress(ImageError):  # a photo that went missing spoils no rendering
            shown = resize_image(read_image(photo), width, height)
    return RenderedView(scene.names[index], maps.rgb, maps.depth, maps.alphas, maps.features, shown)


def _photos(scene: Scene, workspace: Workspace, captures: Path | None) -> dict[str, Path]:
    try:
        root = workspace.capture_dir(scene.name, captures)
        return {view.name: view.image_path for view in read_capture(root).views}
    except CaptureError:
        if captures is not None:
            raise
        return {}
