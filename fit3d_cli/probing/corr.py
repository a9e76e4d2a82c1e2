"""How well the tokens of two views find the same points: the figures of a pair of views.

The truth is geometric (``geometry.correspond``); what is judged is the cosine nearest neighbour of
raw tokens, nothing is trained. Two protocols per pair:

Dense (3DCorrEnhance): every patch centre of view a that view b sees asks for its most similar
patch of b. ``recall@1patch`` and ``recall@2patch`` are the shares whose answer, the centre of a
patch, lies within one or two patch sides of the truth (Euclidean); ``ape`` is the mean distance in
pixels over the shortest edge of the picture, in percent; ``pcdp@.05``, ``@.1``, ``@.2`` are the
shares within that part of the shortest edge (the text defines PCDP by analogy to PCK only, so the
edge of APE is taken).

Sure (probe3d): features are interpolated to pixels, every pixel of a with known depth asks, only
pixels of b with known depth answer, and of the answers only the surest by the ratio test count.
``recall@5px``, ``@10px``, ``@20px`` are the shares of these within so many pixels of the projected
point; a point that b does not see is an error, as there. Pixels are those of a frame whose long
side is 160, a quarter of 640 as ScanNet's in probe3d, whatever the picture's size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.correspond import DepthMaps, grid_places, unproject
from fit3d_cli.probing.matching import confident_matches, nearest_patches, pixel_features

FRAME_SIDE = 160
PATCHES = (1, 2)
PIXELS = (5, 10, 20)
SHARES = (0.05, 0.1, 0.2)
# Views are turned against each other by so many degrees (probe3d's bins).
ANGLES, ANGLE_UNIT = (0.0, 15.0, 30.0, 60.0, 180.0), "deg"
# Distance of the cameras over the median depth: video of rooms hardly turns, but moves.
BASELINES, BASELINE_UNIT = (0.0, 0.1, 0.25, 0.5, math.inf), "depth"


@dataclass(frozen=True)
class DenseTruth:
    """Where the patch centres of view a are in view b.

    Attributes:
        places: ``[h * w, 2]`` x and y in 0..1 of view b.
        visible: ``[h * w]`` bool, whether b sees the point.
    """

    places: Tensor
    visible: Tensor


@dataclass(frozen=True)
class SureTruth:
    """Where the candidate pixels of view a are in view b.

    Attributes:
        grid_a: ``(rows, columns)`` of candidates in a.
        grid_b: The same for b.
        places: ``[Pa, 2]`` x and y in 0..1 of view b, -1 behind it.
        known_a: ``[Pa]`` bool, a's depth is known there.
        known_b: ``[Pb]`` bool, b's depth is known there.
    """

    grid_a: tuple[int, int]
    grid_b: tuple[int, int]
    places: Tensor
    known_a: Tensor
    known_b: Tensor


def dense_truth(
    depth_a: Tensor, camera_a: Cameras, depth_b: Tensor, camera_b: Cameras,
    grid: tuple[int, int], tolerance: float,
) -> DenseTruth:  # fmt: skip
    """Look the patch centres of a token grid up in the other view.

    Args:
        depth_a: ``[H, W]`` of view a, 0 = unknown.
        camera_a: One camera at that size.
        depth_b: ``[H', W']`` of view b.
        camera_b: One camera at that size.
        grid: ``(h, w)`` tokens of view a.
        tolerance: Relative depth difference above which a point counts as hidden.
    """
    centres = grid_places(grid[1], grid[0])
    points, known = unproject(centres, DepthMaps.of([depth_a], camera_a), tolerance)
    places, _, seen = DepthMaps.of([depth_b], camera_b).find(points, tolerance)
    return DenseTruth(places[0], known & seen[0])


def sure_truth(
    depth_a: Tensor, camera_a: Cameras, depth_b: Tensor, camera_b: Cameras,
    *, stride: int, tolerance: float,
) -> SureTruth:  # fmt: skip
    """Look every ``stride``-th pixel of the frame (see above) up in the other view.

    Args:
        depth_a: ``[H, W]`` of view a, 0 = unknown.
        camera_a: One camera at that size.
        depth_b: ``[H', W']`` of view b.
        camera_b: One camera at that size.
        stride: 1 takes every pixel.
        tolerance: Relative difference up to which neighbouring pixels are one surface.
    """
    grid_a, grid_b = (_candidates(depth, stride) for depth in (depth_a, depth_b))
    map_b = DepthMaps.of([depth_b], camera_b)
    asked = grid_places(grid_a[1], grid_a[0])
    points, known_a = unproject(asked, DepthMaps.of([depth_a], camera_a), tolerance)
    places, _, _ = map_b.find(points, tolerance)
    _, known_b = unproject(grid_places(grid_b[1], grid_b[0]), map_b, tolerance)
    return SureTruth(grid_a, grid_b, places[0], known_a, known_b)


def _candidates(depth: Tensor, stride: int) -> tuple[int, int]:
    """``(rows, columns)`` of every ``stride``-th pixel of the frame of a picture."""
    height, width = depth.shape
    scale = FRAME_SIDE / stride / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def dense_figures(
    tokens_a: Tensor, tokens_b: Tensor, truth: DenseTruth, size: tuple[int, int]
) -> dict[str, float]:
    """Recall at patches, APE and PCDP of one pair.

    Args:
        tokens_a: ``[h, w, C]`` of view a.
        tokens_b: ``[h', w', C]`` of view b.
        truth: For the grid of a.
        size: ``(width, height)`` of view b as the backbone sees it, pixels.

    Returns:
        Figures by name; NaN where b sees no patch centre of a.
    """
    visible = truth.visible
    pixels = torch.tensor(size, dtype=torch.float64)
    answers = nearest_patches(tokens_a.flatten(0, 1)[visible.to(tokens_a.device)], tokens_b)
    error = ((answers - truth.places[visible]) * pixels).norm(dim=1)
    patch = float(size[0]) / tokens_b.shape[1]
    edge = float(min(size))
    figures = {f"recall@{n}patch": _share(error <= n * patch) for n in PATCHES}
    figures["ape"] = 100 * float((error / edge).mean())
    return figures | {f"pcdp@{_short(s)}": _share(error <= s * edge) for s in SHARES}


def sure_figures(
    tokens_a: Tensor, tokens_b: Tensor, truth: SureTruth, count: int
) -> dict[str, float]:
    """Recall at pixels of the ``count`` surest matches of one pair; NaN if there are none."""
    (rows_a, columns_a), (rows_b, columns_b) = truth.grid_a, truth.grid_b
    found = confident_matches(
        pixel_features(tokens_a, columns_a, rows_a),
        pixel_features(tokens_b, columns_b, rows_b),
        truth.known_a, truth.known_b, count,
    )  # fmt: skip
    frame = torch.tensor([columns_b, rows_b]) * (FRAME_SIDE / max(columns_b, rows_b))
    true = truth.places[found.first]
    error = ((grid_places(columns_b, rows_b)[found.second] - true) * frame).norm(dim=1)
    error[(true == -1).all(1)] = math.inf  # behind the camera
    return {f"recall@{n}px": _share(error <= n) for n in PIXELS}


def bin_names(edges: Sequence[float], unit: str) -> list[str]:
    """Names of bins, ``15-30deg``; ``0.5depth+`` where the last edge is infinite."""
    return [
        f"{low:g}{unit}+" if math.isinf(high) else f"{low:g}-{high:g}{unit}"
        for low, high in itertools.pairwise(edges)
    ]


def bin_of(value: float, edges: Sequence[float], unit: str) -> str:
    """Name of the bin that holds a value; a bin holds its lower end, the last its upper too.

    Raises:
        ValueError: The value lies in no bin.
    """
    names = bin_names(edges, unit)
    for name, (low, high) in zip(names, itertools.pairwise(edges), strict=True):
        if low <= value < high or value == high == edges[-1]:
            return name
    raise ValueError(f"{value} lies in no bin of {tuple(edges)}")


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _short(value: float) -> str:
    return f"{value:g}".removeprefix("0")
