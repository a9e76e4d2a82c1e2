"""Sparse points for captures that have poses but no points.

pycolmap finds and matches SIFT keypoints. The rest is ours, because the poses are known: a match
is kept when it fits the epipolar geometry of the given poses, matches are joined to tracks, and a
track becomes the point nearest to all its rays. No random draw, so the same photos give the same
points.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture, SparsePoints, View
from fit3d_cli.errors import CaptureError, EnvironmentFault
from fit3d_cli.images import read_image
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.storage import scratch_folder

_MAX_SIDE = 640  # SIFT on larger photos costs minutes and adds little to the starting points
_MAX_ERROR = 2.0  # pixels, epipolar and reprojection
_MIN_ANGLE = 0.02  # radians between the widest rays; below this the depth is a guess
_MIN_POINTS = 50


@dataclass(frozen=True)
class _Rays:
    """Keypoints of one photo as world rays: ``pixels [K, 2]``, ``directions [K, 3]``."""

    pixels: Tensor
    directions: Tensor


def can_triangulate() -> bool:
    """Whether the optional dependency is installed."""
    return importlib.util.find_spec("pycolmap") is not None


def triangulate(capture: Capture, train: list[int], on_event: OnEvent) -> SparsePoints:
    """Match the training photos and triangulate with the given poses (never changed).

    Args:
        capture: The capture; distortion is honoured, photos are read as stored.
        train: Indices of the training views.
        on_event: Told about the stages.

    Raises:
        EnvironmentFault: pycolmap is not installed.
        CaptureError: Fewer than 50 points could be triangulated.
    """
    if not can_triangulate():
        raise EnvironmentFault(
            "triangulation needs pycolmap",
            where="--set lift.geometry.init=triangulate",
            hint="pip install 'fit3d[sfm]', or use init=random",
        )
    views = [capture.views[i] for i in train]
    rays, matches = _match(capture, views, on_event)
    on_event(Progress("triangulate", 2, 3))
    edges = [
        (first, second, _epipolar(views[first], views[second], rays[first], rays[second], pairs))
        for (first, second), pairs in sorted(matches.items())
    ]
    points, owners, keypoints, tracks = _intersect(views, rays, _tracks(rays, edges))
    if len(points) < _MIN_POINTS:
        raise CaptureError(
            f"only {len(points)} points could be triangulated from {len(views)} photos",
            where=capture.root,
            hint="check that the poses fit the photos, or use --set lift.geometry.init=random",
        )
    colors = torch.zeros(len(points), 3, dtype=torch.uint8)
    for index, view in enumerate(views):
        mine = owners == index
        photo = torch.from_numpy(read_image(view.image_path))
        at = rays[index].pixels[keypoints[mine]].floor().long()
        colors[tracks[mine]] = photo[
            at[:, 1].clamp(0, view.height - 1), at[:, 0].clamp(0, view.width - 1)
        ]
    on_event(Progress("triangulate", 3, 3))
    return SparsePoints(points, colors)


def _match(
    capture: Capture, views: list[View], on_event: OnEvent
) -> tuple[list[_Rays], dict[tuple[int, int], Tensor]]:
    """Keypoints as rays, and raw matches ``[M, 2]`` of every pair of photos."""
    import pycolmap

    quiet = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 2
    try:
        with scratch_folder() as scratch:
            database = scratch / "database.db"
            extraction = pycolmap.FeatureExtractionOptions()
            extraction.max_image_size = _MAX_SIDE
            extraction.use_gpu = False
            on_event(Progress("extract SIFT", 0, 3))
            pycolmap.extract_features(
                database,
                capture.root,
                image_names=[view.name for view in views],
                camera_mode=pycolmap.CameraMode.PER_IMAGE,
                extraction_options=extraction,
                device=pycolmap.Device.cpu,
            )
            on_event(Progress("match photos", 1, 3))
            matching = pycolmap.FeatureMatchingOptions()
            matching.use_gpu = False
            matching.skip_geometric_verification = True
            pycolmap.match_exhaustive(
                database, matching_options=matching, device=pycolmap.Device.cpu
            )
            number = {view.name: index for index, view in enumerate(views)}
            with pycolmap.Database.open(database) as opened:
                ids = {image.image_id: number[image.name] for image in opened.read_all_images()}
                rays: list[_Rays] = [_Rays(torch.zeros(0, 2), torch.zeros(0, 3))] * len(views)
                for image_id, index in ids.items():
                    keypoints = np.asarray(opened.read_keypoints(image_id), dtype=np.float64)
                    rays[index] = _rays(views[index], keypoints.reshape(-1, keypoints.shape[-1]))
                matches: dict[tuple[int, int], Tensor] = {}
                pair_ids, pair_matches = opened.read_all_matches()
                for pair_id, pairs in zip(pair_ids, pair_matches, strict=True):
                    first, second = (ids[i] for i in pycolmap.pair_id_to_image_pair(pair_id))
                    table = torch.from_numpy(np.asarray(pairs, dtype=np.int64).reshape(-1, 2))
                    if first > second:
                        first, second, table = second, first, table.flip(1)
                    # The order of approximate matches may vary; what they are does not.
                    order = np.lexsort((table[:, 1].numpy(), table[:, 0].numpy()))
                    matches[first, second] = table[torch.from_numpy(order)]
    finally:
        pycolmap.logging.minloglevel = quiet
    return rays, matches


def _rays(view: View, keypoints: Any) -> _Rays:
    """World directions of keypoints, lens distortion removed."""
    import pycolmap

    fx, fy, cx, cy = (float(view.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    params = list(view.distortion.params) if view.distortion else []
    fisheye = view.distortion is not None and view.distortion.model == "fisheye"
    taps = 4 if fisheye else 8
    camera = pycolmap.Camera(
        model="OPENCV_FISHEYE" if fisheye else "FULL_OPENCV",
        width=view.width,
        height=view.height,
        params=[fx, fy, cx, cy, *(params + [0.0] * taps)[:taps]],
    )
    pixels = np.ascontiguousarray(keypoints[:, :2])
    normal = torch.from_numpy(np.asarray(camera.cam_from_img(pixels)).reshape(-1, 2))
    local = torch.nn.functional.pad(normal, (0, 1), value=1.0)
    directions = torch.nn.functional.normalize(local @ view.viewmat[:3, :3], dim=1)
    return _Rays(torch.from_numpy(pixels), directions)


def _center(view: View) -> Tensor:
    return -(view.viewmat[:3, :3].T @ view.viewmat[:3, 3])


def _epipolar(first: View, second: View, a: _Rays, b: _Rays, pairs: Tensor) -> Tensor:
    """The matches whose rays are coplanar with the baseline, to ``_MAX_ERROR`` pixels."""
    baseline = _center(second) - _center(first)
    u, v = a.directions[pairs[:, 0]], b.directions[pairs[:, 1]]
    good = torch.ones(len(pairs), dtype=torch.bool)
    for ray, other, view in ((u, v, first), (v, u, second)):
        plane = torch.linalg.cross(baseline.expand_as(other), other)
        sine = (ray * torch.nn.functional.normalize(plane, dim=1)).sum(1).abs()
        good &= sine * float(view.K[0, 0]) < _MAX_ERROR
    return pairs[good]


def _tracks(rays: list[_Rays], edges: list[tuple[int, int, Tensor]]) -> Tensor:
    """Connected components over keypoints: ``[S, 3]`` rows (track, photo, keypoint)."""
    offsets = np.cumsum([0] + [len(r.pixels) for r in rays])
    parent = np.arange(offsets[-1])

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for first, second, pairs in edges:
        for left, right in pairs.numpy():
            one, two = root(int(offsets[first] + left)), root(int(offsets[second] + right))
            # The smaller index wins, so that the component's name does not depend on the order.
            parent[max(one, two)] = min(one, two)
    roots = np.array([root(node) for node in range(len(parent))], dtype=np.int64)
    names, sizes = np.unique(roots, return_counts=True)
    nodes = np.nonzero(np.isin(roots, names[sizes >= 2]))[0]
    photo = np.searchsorted(offsets, nodes, side="right") - 1
    track = np.unique(roots[nodes], return_inverse=True)[1]
    rows = np.stack([track, photo, nodes - offsets[photo]], axis=1)
    # A track that visits a photo twice has swallowed a wrong match.
    _, first_seen, visits = np.unique(rows[:, :2], axis=0, return_index=True, return_counts=True)
    wrong = np.unique(rows[first_seen[visits > 1], 0])
    return torch.from_numpy(rows[~np.isin(rows[:, 0], wrong)])


def _intersect(
    views: list[View], rays: list[_Rays], rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The points nearest to the rays of each track, checked by reprojection and angle.

    Returns:
        Points ``[M, 3]`` and, per surviving observation, its photo, keypoint and point index.
    """
    if len(rows) == 0:
        nothing = torch.zeros(0, dtype=torch.int64)
        return torch.zeros(0, 3, dtype=torch.float64), nothing, nothing, nothing
    track = torch.unique(rows[:, 0], return_inverse=True)[1]
    photo, keypoint = rows[:, 1], rows[:, 2]
    total = int(track.max()) + 1
    directions = torch.stack(
        [rays[p].directions[k] for p, k in zip(photo.tolist(), keypoint.tolist(), strict=True)]
    )
    centers = torch.stack([_center(view) for view in views])[photo]
    focal = torch.tensor([float(view.K[0, 0]) for view in views], dtype=torch.float64)[photo]
    eye = torch.eye(3, dtype=torch.float64)
    projectors = eye - directions[:, :, None] * directions[:, None, :]
    lhs = torch.zeros(total, 3, 3, dtype=torch.float64).index_add_(0, track, projectors)
    rhs = torch.zeros(total, 3, dtype=torch.float64).index_add_(
        0, track, (projectors @ centers[:, :, None])[:, :, 0]
    )
    points = torch.linalg.solve(lhs + 1e-12 * eye, rhs[:, :, None])[:, :, 0]
    offset = points[track] - centers
    along = (offset * directions).sum(1)
    # Angle between the ray and the point, in pixels of this photo.
    miss = torch.linalg.cross(offset, directions).norm(dim=1) / along.abs().clamp_min(1e-12) * focal
    bad = (along <= 0) | (miss > _MAX_ERROR)
    wrong = torch.zeros(total, dtype=torch.int64).index_add_(0, track, bad.long())
    # The smallest eigenvalue of the mean projector is about sin^2 of half the angle between rays.
    count = torch.bincount(track, minlength=total)
    spread = torch.linalg.eigvalsh(lhs / count[:, None, None])[:, 0]
    good = (wrong == 0) & (spread > (_MIN_ANGLE / 2) ** 2) & torch.isfinite(points).all(1)
    index = torch.cumsum(good.long(), 0) - 1
    kept = good[track]
    return points[good], photo[kept], keypoint[kept], index[track[kept]]
