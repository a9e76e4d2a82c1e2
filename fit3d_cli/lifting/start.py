"""Which first Gaussians a capture gets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture, SparsePoints
from fit3d_cli.errors import ArchiveError, CaptureError, SettingsError
from fit3d_cli.export import read_ply
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.initialise import fuse_depth, gaussians_from_points, random_points
from fit3d_cli.lifting.triangulate import can_triangulate, triangulate
from fit3d_cli.lifting.views import Frames
from fit3d_cli.progress import OnEvent
from fit3d_cli.settings import GeometrySettings
from fit3d_cli.tensorfile import read_sealed, write_sealed

_MIN_SPARSE = 100  # fewer points say too little about the scene to start from


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
        ArchiveError: The ``.ply`` is damaged.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = settings.init
    if kind == "ply":
        return _from_ply(settings)
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


def check_ply(settings: GeometrySettings) -> None:
    """Refuse a ``.ply`` to start from that is not named, is missing, or would not be read.

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


def _from_ply(settings: GeometrySettings) -> Gaussians:
    gaussians = read_ply(Path(settings.ply))
    wanted = (settings.sh_degree + 1) ** 2
    sh = torch.zeros(len(gaussians), wanted, 3)
    kept = min(wanted, gaussians.sh.shape[1])
    sh[:, :kept] = gaussians.sh[:, :kept]
    return Gaussians(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, sh)


def _absent(capture: Capture, kind: str, what: str) -> CaptureError:
    return CaptureError(
        f"the capture has no {what}",
        where=capture.root,
        hint=f"use another start than --set lift.geometry.init={kind}, e.g. auto",
    )
