"""The figures of TAP-Vid (Doersch et al., 2022, section 3 and appendix)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

SIDE = 256  # pixels of the square picture in which distances are measured
THRESHOLDS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Tracks:
    """Points over time.

    Attributes:
        places: ``[Q, T, 2]`` x, y in 0..1 of the picture.
        occluded: ``[Q, T]`` bool.
    """

    places: Tensor
    occluded: Tensor


def track_scores(truth: Tracks, predicted: Tracks, query_frames: Tensor) -> dict[str, float]:
    """Scores of a video with "strided" queries: all frames count, before and after the query's.

    The query's own frame never counts. With visible and hidden as in the truth, and for every
    threshold d in pixels of a 256 x 256 picture, strictly closer than d being near:

    - ``delta@d`` = near and visible / visible, whatever the predicted visibility;
    - Jaccard at d = TP / (TP + FN + FP), where TP is visible, near and predicted visible, TP + FN
      all visible ones, FP predicted visible but hidden or not near;
    - ``aj`` and ``delta_avg`` are means over the thresholds;
    - ``oa`` = share of frames whose visibility is predicted right.

    Args:
        truth: Annotation, each query's point.
        predicted: The tracker's answer.
        query_frames: ``[Q]`` frame in which each point is given.

    Returns:
        ``aj``, ``delta_avg``, ``oa`` and ``delta@1`` .. ``delta@16`` in 0..1; NaN where nothing is
        to be scored.
    """
    check_dims(
        truth=(truth.places, "Q T 2"), hidden=(truth.occluded, "Q T"),
        places=(predicted.places, "Q T 2"), occluded=(predicted.occluded, "Q T"),
        query_frames=(query_frames, "Q"),
    )  # fmt: skip
    frames = torch.arange(truth.occluded.shape[1])
    counts = frames[None, :] != query_frames[:, None]
    visible, shown = ~truth.occluded, ~predicted.occluded
    error = (predicted.places.double() - truth.places.double()) * SIDE
    square = error.square().sum(-1)
    positives = int((visible & counts).sum())
    jaccards, scores = [], {}
    for limit in THRESHOLDS:
        near = square < limit**2
        right = near & visible & counts
        hit = int((right & shown).sum())
        wrong = int((shown & counts & ~(visible & near)).sum())
        scores[f"delta@{limit}"] = _share(int(right.sum()), positives)
        jaccards.append(_share(hit, positives + wrong))
    return {
        "aj": _mean(jaccards),
        "delta_avg": _mean(list(scores.values())),
        "oa": _share(int(((visible == shown) & counts).sum()), int(counts.sum())),
        **scores,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
