"""Pairs of views that see the same things, and the points that both see."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_cli.finetuning.batch import Pairs
from fit3d_cli.finetuning.targets import DepthView, SceneTargets, load_depth
from fit3d_cli.finetuning.targets.cache import Made, ensure
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.correspond import (
    DepthMaps,
    Transfer,
    grid_places,
    rotation_angle,
    transfer,
    unproject,
)
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import PairSettings
from fit3d_cli.tensorfile import read_sealed
from fit3d_cli.tensorfile.overflow import KeptList, Overflow

FEWEST = 8  # correspondences below which two views teach nothing

_SMALL = 64  # longer side in pixels of the depths that overlap is judged by
_SMALL_BYTES = 4 << 20  # of these depths that are kept in memory
_TOGETHER = 64  # views whose depths are looked into at a time
_ASKED = 16  # about as many points per row of a view are looked up in the others
_TRIES = 8  # candidates per correspondence that is wanted
_RETURN = 0.015  # there and back again, in picture sides: half a patch of a 32 x 24 grid


def find_partners(
    scene: SceneTargets, settings: PairSettings, on_event: OnEvent
) -> list[array[int]]:
    """For each view of a scene, the training views that may be paired with it.

    The answer is kept beside the scene's targets: time grows with the square of the views.

    Args:
        scene: With its depths prepared.
        settings: ``min_overlap``, ``max_angle`` and ``tolerance`` are used.
        on_event: Told about each view whose depth is read.

    Returns:
        The indices of other views for every photo and rendered view, ascending; none for
        held-out photos, for rendered views and for those that overlap with no other.

    Raises:
        ValueError: The scene was prepared without depths.
        Fit3dError: A depth map cannot be read, or the answer cannot be written.
    """
    if scene.depths is None:
        raise ValueError(f"scene {scene.name} was prepared without depths")
    rules = (settings.min_overlap, settings.max_angle, settings.tolerance)
    path = scene.cached("partners of views", scene.depths.stem, scene.train, *rules)
    ensure(path, path.stem, lambda: _find(scene, settings, on_event))
    tensors, _ = read_sealed(path)
    found = [array("i") for _ in range(len(scene.views) + scene.novel)]
    partners, end = tensors["partners"].numpy(), 0
    for view, count in zip(scene.train, tensors["counts"].tolist(), strict=True):
        begin, end = end, end + count
        found[view].frombytes(partners[begin:end].tobytes())
    return found


def _find(scene: SceneTargets, settings: PairSettings, on_event: OnEvent) -> Made:
    overflow, small, cameras = Overflow(scene.folder, budget=_SMALL_BYTES), [], []
    for done, index in enumerate(scene.train):
        on_event(Progress(f"{scene.name}: pairs", done, len(scene.train)))
        view = _shrink(load_depth(scene, index), settings.tolerance)
        small.append(overflow.keep(view.depth))
        cameras.append(view.camera)
    good = pair_views(KeptList[Tensor](small), stack_cameras(cameras), settings)
    numbers = torch.tensor(scene.train, dtype=torch.int32)
    on_event(Progress(f"{scene.name}: pairs", len(scene.train), len(scene.train)))
    return {
        "counts": good.sum(1, dtype=torch.int32),
        "partners": torch.cat([numbers[row] for row in good]),
    }, {}


def pair_views(depths: Sequence[Tensor], cameras: Cameras, settings: PairSettings) -> Tensor:
    """Which views go together: turned by at most ``max_angle``, each sees enough of the other.

    Args:
        depths: ``[h, w]`` of the views of one scene; small ones will do.
        cameras: One per view, at the size of its depth.
        settings: ``min_overlap``, ``max_angle`` and ``tolerance`` are used.

    Returns:
        ``[V, V]`` bool, symmetric; no view goes with itself.
    """
    count = len(depths)
    good = torch.zeros(count, count, dtype=torch.bool)
    asked: list[Tensor] = []
    for row in range(count):
        angles = rotation_angle(cameras.viewmats[row], cameras.viewmats)
        good[row] = angles <= settings.max_angle
        points, known = unproject(
            _places(depths[row]), DepthMaps.of([depths[row]], cameras[row]), settings.tolerance
        )
        asked.append(points[known])
    good &= good.T.clone()  # an angle is the same both ways but for rounding
    good.fill_diagonal_(False)
    for begin in range(0, count, _TOGETHER):
        some = torch.arange(begin, min(begin + _TOGETHER, count))
        maps = DepthMaps.of([depths[view] for view in some.tolist()], cameras[some.tolist()])
        for row, points in enumerate(asked):
            # Those that were found to see too little of this one, or it of them, are out.
            left = good[row, some].nonzero()[:, 0]
            seen = maps[left].find(points, settings.tolerance)[2].double()
            out = some[left[seen.sum(1) / max(1, len(points)) < settings.min_overlap]]
            good[row, out] = good[out, row] = False
    return good


def _places(depth: Tensor) -> Tensor:
    height, width = depth.shape
    return grid_places(width, height, max(1, width // _ASKED))


def draw_pairs(
    view_a: DepthView,
    view_b: DepthView,
    *,
    first: int,
    second: int,
    flip_a: bool,
    flip_b: bool,
    settings: PairSettings,
    generator: torch.Generator,
) -> Pairs | None:
    """Random points that two views both see, at sub-pixel places.

    Places are drawn evenly over what a knows the depth of, and transferred to b and back. A point
    stays if each view's depth confirms it and it comes back to where it was.

    Args:
        view_a: Depth of the one view, as photographed.
        view_b: Depth of the other.
        first: Index in the batch of picture a.
        second: Index in the batch of picture b.
        flip_a: Whether picture a is mirrored in the batch; the places are mirrored with it.
        flip_b: Whether picture b is.
        settings: ``points`` at most; ``tolerance``.
        generator: Draws the places, on the CPU; it is advanced by the same amount in any case.

    Returns:
        The correspondences, or None if fewer than ``FEWEST`` are found.
    """
    chances = torch.rand((_TRIES * settings.points, 3), generator=generator, dtype=torch.float64)
    start = _known_places(view_a.depth, chances)
    there = _move(start, view_a, view_b, settings.tolerance)
    back = _move(there.places, view_b, view_a, settings.tolerance)
    near = ((back.places - start).abs() <= _RETURN).all(1)
    kept = (there.visible & back.visible & near).nonzero()[: settings.points, 0]
    if len(kept) < FEWEST:
        return None
    points = there.points[kept]
    return Pairs(
        first, second, _mirrored(start[kept], flip_a), _mirrored(there.places[kept], flip_b),
        points, float((points - points.median(0).values).norm(dim=1).median()),
    )  # fmt: skip


def _known_places(depth: Tensor, chances: Tensor) -> Tensor:
    """``[N, 2]`` float32 places with known depth, from ``[N, 3]`` numbers in 0..1; none if none."""
    height, width = depth.shape
    known = (depth.isfinite() & (depth > 0)).flatten().nonzero()[:, 0]
    if not len(known):
        return torch.zeros(0, 2)
    pixel = known[(chances[:, 0] * len(known)).long()]
    x, y = pixel % width + chances[:, 1], pixel // width + chances[:, 2]
    return torch.stack([x / width, y / height], dim=1).float()


def _move(places: Tensor, source: DepthView, target: DepthView, tolerance: float) -> Transfer:
    return transfer(
        places, source.depth, source.camera, target.depth, target.camera, tolerance=tolerance
    )


def _mirrored(places: Tensor, flip: bool) -> Tensor:
    return torch.stack([1 - places[:, 0], places[:, 1]], dim=1) if flip else places


def _shrink(view: DepthView, tolerance: float) -> DepthView:
    """The same view with a depth map of at most ``_SMALL`` pixels a side."""
    height, width = view.depth.shape
    factor = min(1.0, _SMALL / max(height, width))
    small = view.camera.resized(max(1, round(factor * width)), max(1, round(factor * height)))
    width, height = map(int, small.sizes[0].tolist())
    centres = grid_places(width, height)[None]
    depth = DepthMaps.of([view.depth], view.camera).at(centres, tolerance)
    return DepthView(depth.reshape(height, width).float(), small)
