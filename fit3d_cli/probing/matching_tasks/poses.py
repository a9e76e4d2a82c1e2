"""From features with 3D points to the pose of an object: mutual neighbours, PnP, errors."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import EnvironmentFault
from fit3d_cli.shapes import check_dims

THRESHOLDS = (1, 3, 5)  # centimetres and degrees
MIN_INLIERS = 6  # the published evaluation wants more than five
_CHUNK_VALUES = 64_000_000


def mutual_neighbours(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that are each other's nearest by dot product.

    One product serves both directions: the best of every column is kept while the rows go by.

    Args:
        first: ``[N, C]`` unit features.
        second: ``[M, C]`` unit features.

    Returns:
        ``[P]`` indices into ``first``, ascending, and ``[P]`` into ``second``; the lower index wins
        a tie.
    """
    check_dims(first=(first, "N C"), second=(second, "M C"))
    if not len(first) or not len(second):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    forward = torch.empty(len(first), dtype=torch.int64, device=first.device)
    best = second.new_full((len(second),), -math.inf)
    backward = torch.zeros(len(second), dtype=torch.int64, device=first.device)
    step = max(1, _CHUNK_VALUES // len(second))
    for start in range(0, len(first), step):
        cosine = first[start : start + step] @ second.T
        forward[start : start + step] = cosine.argmax(dim=1)
        top, at = cosine.max(dim=0)
        better = top > best
        best = torch.where(better, top, best)
        backward = torch.where(better, at + start, backward)
    rows = torch.arange(len(first), device=first.device)
    mutual = backward[forward] == rows
    return rows[mutual].cpu(), forward[mutual].cpu()


def require_pycolmap() -> None:
    """Fail before any work if there is no PnP.

    Raises:
        EnvironmentFault: pycolmap is not installed.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise EnvironmentFault(
            "poses are estimated by pycolmap, which is not installed",
            where="probe pose",
            hint="pip install 'fit3d[sfm]'",
        )


def estimate_pose(
    pixels: Tensor, points: Tensor, K: Tensor, size: tuple[int, int], *,
    inlier: float, trials: int, seed: int,
) -> Tensor | None:  # fmt: skip
    """Camera pose from points seen at pixels: RANSAC over minimal samples, then refinement.

    pycolmap's LO-RANSAC (P3P, local EPnP) and its refinement on the inliers.

    Args:
        pixels: ``[P, 2]`` float64 x, y.
        points: ``[P, 3]`` float64 of the object.
        K: ``[3, 3]`` float64 intrinsics; skew is not modelled.
        size: ``(width, height)`` of the picture.
        inlier: Reprojection error of an inlier, pixels.
        trials: Samples at most.
        seed: Decides the samples.

    Returns:
        ``[4, 4]`` float64 object to camera, or None if fewer than six points agree.
    """
    check_dims(pixels=(pixels, "P 2"), points=(points, "P 3"), K=(K, "3 3"))
    if len(pixels) < MIN_INLIERS:
        return None
    import pycolmap

    camera = pycolmap.Camera(
        model="PINHOLE", width=size[0], height=size[1],
        params=[float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
    )  # fmt: skip
    options = pycolmap.AbsolutePoseEstimationOptions()
    ransac = options.ransac
    ransac.max_error = inlier
    ransac.max_num_trials = trials
    ransac.min_num_trials = min(ransac.min_num_trials, trials)
    ransac.min_inlier_ratio = 0.01  # feature matches are mostly wrong: do not stop early
    if hasattr(ransac, "random_seed"):
        ransac.random_seed = seed
    else:  # before pycolmap 4
        pycolmap.set_random_seed(seed)
    result = pycolmap.estimate_and_refine_absolute_pose(
        np.ascontiguousarray(pixels.numpy()), np.ascontiguousarray(points.numpy()), camera, options
    )
    if result is None or int(np.asarray(result["inlier_mask"]).sum()) < MIN_INLIERS:
        return None
    motion = torch.from_numpy(np.asarray(result["cam_from_world"].matrix(), dtype=np.float64))
    pose = torch.cat([motion, motion.new_tensor([[0, 0, 0, 1]])])
    return pose if bool(torch.isfinite(pose).all()) else None


def pose_error(predicted: Tensor, truth: Tensor) -> tuple[float, float]:
    """How far two object-to-camera poses are apart.

    Args:
        predicted: ``[4, 4]``.
        truth: ``[4, 4]``, metres.

    Returns:
        Degrees of the rotation between them, ``arccos((tr(R R'^T) - 1) / 2)``, computed as
        ``2 arcsin(|R - R'|_F / sqrt 8)``, which is exact near zero as well; and the distance of the
        translations in centimetres.
    """
    check_dims(predicted=(predicted, "4 4"), truth=(truth, "4 4"))
    difference = predicted.double() - truth.double()
    chord = float(difference[:3, :3].norm()) / math.sqrt(8)
    return math.degrees(2 * math.asin(min(1.0, chord))), 100 * float(difference[:3, 3].norm())
