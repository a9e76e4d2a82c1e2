"""A scene and cameras in; colour, depth, alpha and feature maps out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from fit3d_cli import storage
from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import SettingsError
from fit3d_cli.geometry.cameras import Cameras, orbit_cameras
from fit3d_cli.images import save_png
from fit3d_cli.preflight import Needs, require
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import Scene
from fit3d_cli.splat.rasterize import render_gaussians, view_weights
from fit3d_cli.video import save_video
from fit3d_cli.viz import PcaBasis, depth_to_rgb, fit_pca, to_uint8

_PCA_VIEWS, _PCA_WIDTH = 12, 160  # enough to find three components, cheap to render


@dataclass(frozen=True)
class Maps:
    """What one camera sees.

    Attributes:
        rgb: ``[H, W, 3]`` in 0..1, black background.
        depth: ``[H, W]`` expected depth in world units; 0 where nothing was hit.
        alphas: ``[H, W]`` accumulated opacity in 0..1.
        features: ``[H, W, d]`` lifted features, or None if they were not asked for.
    """

    rgb: Tensor
    depth: Tensor
    alphas: Tensor
    features: Tensor | None


def render_maps(scene: Scene, camera: Cameras, *, features: bool) -> Maps:
    """Render one camera at its own size, where the scene's Gaussians are; the maps are on the CPU.

    Args:
        scene: What to render.
        camera: One camera.
        features: Whether to render the d feature channels too.
    """
    gaussians = scene.gaussians
    width, height = map(int, camera.sizes[0].tolist())
    with torch.no_grad():
        rendering = render_gaussians(gaussians, camera.viewmats[0], camera.Ks[0], width, height)
    alphas = rendering.alphas
    depth = torch.where(alphas > 1e-3, rendering.depth, torch.zeros_like(alphas))
    maps = None
    if features:
        weights = view_weights(gaussians, camera.viewmats[0], camera.Ks[0], width, height)
        # A channel depends on no other one: where a GPU lacks the room, some at a time.
        backoff = Backoff("channels of a map", scene.features.shape[1], scene.features.device)
        parts = backoff.attempt(
            lambda n: [
                weights.apply(f.contiguous()).cpu() for f in torch.split(scene.features, n, dim=1)
            ]
        )
        maps = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return Maps(rendering.rgb.clamp(0, 1).cpu(), depth.cpu(), alphas.cpu(), maps)


def scaled_cameras(cameras: Cameras, width: int) -> list[Cameras]:
    """Each camera at about ``width`` pixels with its own aspect."""
    scaled = []
    for index in range(len(cameras)):
        stored_width, stored_height = cameras.sizes[index].tolist()
        height = max(1, round(stored_height * width / stored_width))
        scaled.append(cameras[index].resized(width, height))
    return scaled


def scene_pca(scene: Scene) -> PcaBasis:
    """Three principal components of the scene's rendered features, one basis for all views."""
    step = max(1, len(scene.cameras) // _PCA_VIEWS)
    maps = []
    for camera in scaled_cameras(scene.cameras[slice(None, None, step)], _PCA_WIDTH):
        rendered = render_maps(scene, camera, features=True)
        assert rendered.features is not None
        # Relative to the best covered pixel, so that a see-through scene has colours too.
        covered = rendered.alphas >= 0.5 * rendered.alphas.max()
        maps.append(rendered.features[covered])
    return fit_pca(torch.cat(maps))


def choose_views(scene: Scene, views: str, where: str = "--views") -> list[int]:
    """Indices of ``held-out``, ``all`` or comma-separated view names (or their stems).

    Raises:
        SettingsError: An unknown or ambiguous view, or none at all.
    """
    if views == "all":
        return list(range(len(scene.names)))
    if views == "held-out":
        chosen = scene.views(heldout=True)
        if not chosen:
            raise SettingsError(
                "the scene has no held-out views", where=where, hint="use all, orbit or a view name"
            )
        return chosen
    indices: list[int] = []
    wanted = [part.strip() for part in views.split(",") if part.strip()]
    if not wanted:
        raise SettingsError("no view is named", where=where, hint="use held-out, all or orbit")
    for name in wanted:
        # A full name is never ambiguous, even if another view's stem or file name is the same.
        matches = [i for i, known in enumerate(scene.names) if name == known] or [
            i for i, known in enumerate(scene.names)
            if name in (PurePosixPath(known).name, PurePosixPath(known).stem)
        ]  # fmt: skip
        if len(matches) != 1:
            problem = "no view" if not matches else f"{len(matches)} views"
            raise SettingsError(
                f"{problem} called {name!r}",
                where=where,
                hint=f"names look like {scene.names[0]}; or use held-out, all, orbit",
            )
        if matches[0] not in indices:
            indices.append(matches[0])
    return indices


def render_scene(
    scene: Scene,
    *,
    what: Sequence[str],
    views: str,
    width: int,
    frames: int,
    fps: int,
    video: str,
    out: Path,
    on_event: OnEvent,
) -> list[Path]:
    """Render a scene to files.

    Args:
        scene: What to render.
        what: Any of ``rgb``, ``depth``, ``alpha``, ``features``, ``pca``.
        views: ``held-out``, ``all``, ``orbit`` or view names.
        width: Width of the pictures in pixels.
        frames: Frames of an orbit.
        fps: Frames per second of an orbit.
        video: ``mp4`` or ``gif``.
        out: Directory to write to.
        on_event: Told about each picture.

    Returns:
        The files: pictures ``<view>.<what>.png``, for depth also ``<view>.depth.npy`` (float32,
        world units), for features ``<view>.features.npy`` (float16 ``[H, W, d]``); for an orbit one
        video per kind.
    """
    storage.require_writable(out)
    basis = scene_pca(scene) if "pca" in what else None
    if views == "orbit":
        if "features" in what:
            raise SettingsError(
                "an orbit has pictures only", where="--what features", hint="use --what pca"
            )
        return _render_orbit(scene, basis, what, width, frames, fps, video, out, on_event)
    indices = choose_views(scene, views)
    labels = _file_names([scene.names[i] for i in indices])
    _require_room(scene, indices, what, width, out)
    files: list[Path] = []
    for done, (index, label) in enumerate(zip(indices, labels, strict=True)):
        on_event(Progress("render", done, len(indices), label))
        camera = scaled_cameras(scene.cameras[index], width)[0]
        maps = render_maps(scene, camera, features=bool({"features", "pca"} & set(what)))
        for kind in what:
            path = out / f"{label}.{kind}.png"
            if kind == "features":
                assert maps.features is not None
                path = path.with_suffix(".npy")
                _save_npy(path, maps.features.half())
            else:
                save_png(path, _picture(maps, kind, basis))
            files.append(path)
            if kind == "depth":
                _save_npy(path.with_suffix(".npy"), maps.depth)
                files.append(path.with_suffix(".npy"))
    on_event(Progress("render", len(indices), len(indices)))
    return files


def _require_room(
    scene: Scene, indices: Sequence[int], what: Sequence[str], width: int, out: Path
) -> None:
    """Refuse pictures that the disk cannot hold, or maps of one view that memory cannot."""
    sizes = scene.cameras.sizes[indices].tolist()
    pixels = [width * max(1, round(h * width / w)) for w, h in sizes]
    channels = scene.features.shape[1]
    # Arrays are as large as they are; a PNG may be anything, of plain walls a fifth of a byte.
    per_pixel = sum({"features": 2 * channels, "depth": 4.2}.get(kind, 0.2) for kind in what)
    maps = 4 * (8 + (2 * channels if {"features", "pca"} & set(what) else 0))
    needs = Needs(memory=maps * max(pixels), disk=int(per_pixel * sum(pixels)))
    require(needs, where="--width", disk=out, less="lower --width, or name fewer --views")


def _render_orbit(
    scene: Scene,
    basis: PcaBasis | None,
    what: Sequence[str],
    width: int,
    frames: int,
    fps: int,
    video: str,
    out: Path,
    on_event: OnEvent,
) -> list[Path]:
    path = orbit_cameras(scene.cameras, frames)
    cameras = scaled_cameras(path, width)
    # One depth scale for the whole video, or its colours would flicker.
    first = render_maps(scene, cameras[0], features=False).depth
    known = first[first > 0]
    span = (float(known.quantile(0.02)), float(known.quantile(0.98))) if len(known) else (0.1, 1.0)
    pictures: dict[str, list[np.ndarray]] = {kind: [] for kind in what}  # type: ignore[type-arg]
    for done, camera in enumerate(cameras):
        on_event(Progress("render orbit", done, frames))
        maps = render_maps(scene, camera, features="pca" in what)
        for kind in what:
            pictures[kind].append(_picture(maps, kind, basis, span))
    files = []
    for kind, shots in pictures.items():
        target = out / f"orbit.{kind}.{video}"
        save_video(target, shots, fps)
        files.append(target)
    on_event(Progress("render orbit", frames, frames))
    return files


def _picture(
    maps: Maps, kind: str, basis: PcaBasis | None, span: tuple[float, float] | None = None
) -> np.ndarray:  # type: ignore[type-arg]
    near, far = span if span is not None else (None, None)
    makers: dict[str, Callable[[], Tensor]] = {
        "rgb": lambda: maps.rgb,
        "alpha": lambda: maps.alphas[..., None].expand(-1, -1, 3),
        "depth": lambda: depth_to_rgb(maps.depth, mask=maps.depth > 0, near=near, far=far),
        "pca": lambda: _pca_picture(maps, basis),
    }
    return to_uint8(makers[kind]())


def _pca_picture(maps: Maps, basis: PcaBasis | None) -> Tensor:
    assert basis is not None and maps.features is not None
    # Features fade with alpha; dividing shows what is there, multiplying the colour shows how much.
    alphas = maps.alphas[..., None]
    return basis(maps.features / alphas.clamp_min(1e-3)) * alphas


def _file_names(names: Sequence[str]) -> list[str]:
    """Short file names of views: the stem if that is unique, else the whole name, flattened."""
    stems = [PurePosixPath(name).stem for name in names]
    flat = [name.replace("/", "_") for name in names]
    for labels in (stems, flat):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index:04d}_{label}" for index, label in enumerate(flat)]  # a/b.png beside a_b.png


def _save_npy(path: Path, values: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy(), allow_pickle=False)
    storage.write_bytes(path, buffer.getvalue())
