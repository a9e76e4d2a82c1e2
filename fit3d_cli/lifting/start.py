"""Which first Gaussians a capture gets."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture, SparsePoints
from fit3d_cli.errors import ArchiveError, CaptureError, SettingsError
from fit3d_cli.formats import read_gaussians
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.initialise import fuse_depth, gaussians_from_points, random_points
from fit3d_cli.lifting.triangulate import can_triangulate, triangulate
from fit3d_cli.lifting.views import Frames
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import GeometrySettings
from fit3d_cli.tensorfile import read_sealed, write_sealed

_MIN_SPARSE = 100  # fewer points say too little about the scene to start from
# Trained Gaussians are nearly all in some view; in a foreign frame few are, or few views see any.
_MIN_SEEN, _MIN_VIEWS = 0.05, 0.5


def first_gaussians(
    capture: Capture,
    frames: Frames,
    train: list[int],
    settings: GeometrySettings,
    seed: int,
    cache_dir: Path,
    digest: str,
    on_event: OnEvent,
) -> Gaussians:
    """Gaussians to start the fit from.

    ``auto`` takes measured depth, else the capture's sparse points, else triangulated points (if
    pycolmap is installed and enough of them are found), else random points.

    Args:
        capture: The capture.
        frames: Its views at the fitted size.
        train: Indices of the training views.
        settings: ``init``, ``ply``, ``init_gaussians``, ``sh_degree``.
        seed: Decides the draws.
        cache_dir: Where triangulated points are kept.
        digest: Digest of the capture, names the cached points.
        on_event: Told about long steps.

    Raises:
        CaptureError: What was asked for is not in the capture.
        ArchiveError: The file of Gaussians is damaged, or in another frame than the capture.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = settings.init
    if kind == "ply":
        return _from_file(capture, frames, train, settings, on_event)
    has_depth = any(frames.depths[i] is not None for i in train)
    if kind == "depth" and not has_depth:
        raise _absent(capture, "depth", "depth maps")
    if kind == "points" and capture.points is None:
        raise _absent(capture, "points", "sparse points")
    count, degree = settings.init_gaussians, settings.sh_degree
    if kind == "depth" or (kind == "auto" and has_depth):
        points, colors = fuse_depth(frames, train, count, generator)
        if len(points) >= _MIN_SPARSE:
            return gaussians_from_points(points, colors, count, sh_degree=degree, surface=True)
        if kind == "depth":
            raise _absent(capture, "depth", "usable depth values")
    sparse = capture.points if kind in ("auto", "points") else None
    if kind == "triangulate" or (kind == "auto" and _few(sparse) and can_triangulate()):
        sparse = _triangulated(capture, train, cache_dir, digest, on_event, kind == "triangulate")
    if kind == "random" or (kind == "auto" and _few(sparse)) or sparse is None:
        points, colors = random_points(frames.cameras[train], count, generator)
        return gaussians_from_points(points, colors, count, sh_degree=degree, surface=False)
    return gaussians_from_points(
        *_near(sparse, frames, train), count, sh_degree=degree, surface=False
    )


def check_ply(settings: GeometrySettings, captures: int = 1) -> None:
    """Refuse a file of Gaussians to start from that is not named, is missing, or is not read.

    Args:
        settings: ``init`` and ``ply``.
        captures: How many are lifted: a file belongs to one of them.

    Raises:
        SettingsError: It is.
    """
    ply, where = settings.ply, "lift.geometry.ply"
    if settings.init == "ply" and not ply:
        raise SettingsError("init=ply needs a file", where=where, hint=f"--set {where}=FILE.ply")
    if settings.init != "ply" and ply:
        raise SettingsError(
            f"not read with init={settings.init}",
            where=where,
            hint="add --set lift.geometry.init=ply, or leave the file out",
        )
    if ply and not Path(ply).is_file():
        raise SettingsError("no such file", where=ply, hint=f"check {where}")
    if ply and captures > 1:
        raise SettingsError(
            f"one file of Gaussians for {captures} captures", where=ply, hint="lift them one by one"
        )


def _few(points: SparsePoints | None) -> bool:
    return points is None or len(points.xyz) < _MIN_SPARSE


def _near(points: SparsePoints, frames: Frames, train: list[int]) -> tuple[Tensor, Tensor]:
    """Points that are not absurdly far away: wrong matches make Gaussians as large as the sky."""
    cameras = frames.cameras[train]
    middle = cameras.centers.mean(0)
    distance = (points.xyz - middle).norm(dim=1)
    usable = distance < 20 * max(float(distance.median()), cameras.extent)
    return points.xyz[usable], points.rgb[usable].float() / 255


def _triangulated(
    capture: Capture,
    train: list[int],
    cache_dir: Path,
    digest: str,
    on_event: OnEvent,
    required: bool,
) -> SparsePoints | None:
    key = hashlib.sha256(f"{digest} {train}".encode()).hexdigest()
    path = cache_dir / f"{key}.safetensors"
    if path.is_file():
        try:
            tensors, _ = read_sealed(path)
            return SparsePoints(tensors["xyz"], tensors["rgb"])
        except (ArchiveError, KeyError, ValueError):
            path.unlink(missing_ok=True)
    try:
        points = triangulate(capture, train, on_event)
    except CaptureError:
        if required:
            raise
        return None
    write_sealed(path, {"xyz": points.xyz, "rgb": points.rgb}, {})
    return points


def _from_file(
    capture: Capture,
    frames: Frames,
    train: list[int],
    settings: GeometrySettings,
    on_event: OnEvent,
) -> Gaussians:
    """The Gaussians of another program; without training they stay as they are."""
    path = Path(settings.ply)
    gaussians = read_gaussians(path)
    if not len(gaussians):
        raise ArchiveError("holds no Gaussians", where=path, hint="pass another file")
    seen, views = projected(gaussians.means, frames.cameras[train])
    if seen < _MIN_SEEN or views < _MIN_VIEWS * len(train):
        raise ArchiveError(
            f"{seen:.1%} of its {len(gaussians)} Gaussians project into any of the {len(train)} "
            f"training views, and {views} of these see any: its frame is not the capture's",
            where=path,
            hint="name the Gaussians that were trained with these very poses",
        )
    note = f"{seen:.1%} of {len(gaussians)} project into the views"
    on_event(Progress(f"{capture.name}: Gaussians of {path.name}", 1, 1, note))
    if settings.iterations == 0:
        return gaussians
    wanted = (settings.sh_degree + 1) ** 2
    sh = torch.zeros(len(gaussians), wanted, 3)
    kept = min(wanted, gaussians.sh.shape[1])
    sh[:, :kept] = gaussians.sh[:, :kept]
    return replace(gaussians, sh=sh)


def projected(means: Tensor, cameras: Cameras) -> tuple[float, int]:
    """How well Gaussians and cameras share a frame.

    Args:
        means: ``[N, 3]`` world, N > 0.
        cameras: Of the views.

    Returns:
        The share of the means that lie in front of a camera and project into its picture, for at
        least one camera; and how many cameras see at least one mean.
    """
    points = means.double()
    anywhere = torch.zeros(len(points), dtype=torch.bool)
    views = 0
    for index in range(len(cameras)):
        viewmat, K = cameras.viewmats[index].double(), cameras.Ks[index].double()
        pixels = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
        depth = pixels[:, 2]
        inside = (depth > 0) & (pixels[:, :2] >= 0).all(1)
        inside &= (pixels[:, :2] < cameras.sizes[index].double() * depth[:, None]).all(1)
        anywhere |= inside
        views += bool(inside.any())
    return float(anywhere.double().mean()), views


def _absent(capture: Capture, kind: str, what: str) -> CaptureError:
    return CaptureError(
        f"the capture has no {what}",
        where=capture.root,
        hint=f"use another start than --set lift.geometry.init={kind}, e.g. auto",
    )
