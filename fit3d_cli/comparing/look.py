"""``fit3d viz`` of photos: one picture per photo, all in the same colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.comparing.inputs import photos_of_path
from fit3d_cli.comparing.models import load_base, load_pair
from fit3d_cli.comparing.pictures import Tokeniser, enlarge, photo_of, shared, tokens_of
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import SettingsError
from fit3d_cli.images import save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.settings import VizSettings
from fit3d_cli.storage import require_writable
from fit3d_cli.viz import Clusters, Panel, PcaBasis
from fit3d_cli.workspace import Workspace

# Enough pictures to fit colours on; a folder of thousands is then painted one by one.
MAX_FIT = 96


def viz_images(
    images: Sequence[Path],
    models: Sequence[tuple[str, Tokeniser]],
    out: Path,
    *,
    width: int,
    batch: int,
    method: Literal["pca", "kmeans"] = "pca",
    clusters: int = 6,
    names: Sequence[str] | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> list[Path]:
    """Write each photo beside what one or two models make of it.

    The colours are fitted on at most ``MAX_FIT`` evenly spread photos and hold for all of them.

    Args:
        images: Photos, at least one.
        models: Labels and backbones, the base first.
        out: A ``.png`` file for one photo, otherwise a directory.
        width: Width in pixels of what the models see.
        batch: Photos per forward pass.
        method: How features become colours.
        clusters: k of k-means.
        names: What to call the photos; default: their file names.
        seed: Of the fit.
        on_event: Progress listener.

    Returns:
        The files, in the order of ``images``.

    Raises:
        ImageError: A photo cannot be read.
        StorageError: A picture cannot be written.
    """
    labels = list(names or [path.name for path in images])
    single = out.suffix.lower() == ".png" and len(images) == 1
    files = [out] if single else [out / name for name in file_names(labels)]
    require_writable(files[0].parent)
    step = max(1, -(-len(images) // MAX_FIT))
    options = {"width": width, "batch": batch}
    seen: list[list[Tensor]] = []
    for _, model in models:
        seen.append([])
        for tokens in tokens_of(images[::step], model, **options):
            seen[-1].append(tokens)
            done = sum(map(len, seen))
            on_event(Progress("features", done, len(models) * len(range(0, len(images), step))))
    fitted = shared(seen, lambda groups: _fit(groups, method, clusters, seed))
    rest = [path for index, path in enumerate(images) if index % step]
    streams = [tokens_of(rest, model, **options) for _, model in models]
    for index, (path, label, file) in enumerate(zip(images, labels, files, strict=True)):
        photo = photo_of(path, models[0][1], width)
        panels = [Panel("photo", viz.to_uint8(photo))]
        for (name, _), maps, stream, paint in zip(models, seen, streams, fitted, strict=True):
            tokens = next(stream) if index % step else maps[index // step]
            panels.append(_panel(name, paint(tokens), method, photo))
        save_png(file, viz.side_by_side(panels, title=label))
        on_event(Progress("pictures", index + 1, len(images)))
    return files


def _fit(groups: list[Tensor], method: str, clusters: int, seed: int) -> PcaBasis | Clusters:
    if method == "pca":
        return viz.fit_pca(groups, seed=seed)
    return viz.kmeans(torch.cat(groups), clusters, seed=seed)


def _panel(label: str, colours: Tensor, method: str, photo: Tensor) -> Panel:
    height, width = photo.shape[:2]
    if method == "pca":
        return Panel(f"{label}: PCA", enlarge(colours, width, height))
    return Panel(f"{label}: k-means", enlarge(colours, width, height, hard=True))


def file_names(names: Sequence[str]) -> list[str]:
    """Plain ``.png`` file names for view names, no two the same on any file system."""
    taken: set[str] = set()
    files = []
    for name in names:
        stem = str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
        plain = re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[:100] or "picture"
        candidate, number = plain, 2
        while candidate.lower() in taken:
            candidate, number = f"{plain}-{number}", number + 1
        taken.add(candidate.lower())
        files.append(f"{candidate}.png")
    return files


def viz_subject(
    subject: Path,
    settings: VizSettings,
    *,
    workspace: Path,
    out: Path,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> list[Path]:
    """``viz_images`` of whatever the user named.

    Args:
        subject: A picture, a folder of pictures, or a capture.
        settings: Of the verb.
        workspace: Where models are looked for by name.
        out: A ``.png`` file for one photo, otherwise a directory.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Of the fit.
        on_event: Progress listener.

    Raises:
        Fit3dError: Something is missing or damaged, or nothing can be written.
    """
    home = Workspace(workspace)
    target = str(resolve_device(device))
    photos = photos_of_path(subject)
    if out.suffix.lower() == ".png" and len(photos.paths) > 1:
        raise SettingsError(
            f"{len(photos.paths)} pictures do not fit into one file", where=f"--out {out}",
            hint="name a directory",
        )  # fmt: skip
    models: list[tuple[str, Tokeniser]]
    if settings.tuned:
        pair = load_pair(home, settings.backbone, tuned=settings.tuned, device=target)
        models = [("base", pair.base), ("tuned", pair.tuned)]
    else:
        base = load_base(home, settings.backbone, {}, device=target)
        models = [(base.name, base)]
    return viz_images(
        photos.paths, models, out,
        width=settings.backbone.width, batch=settings.backbone.batch, method=settings.method,
        clusters=settings.clusters, names=photos.names, seed=seed, on_event=on_event,
    )  # fmt: skip
