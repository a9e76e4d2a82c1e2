"""Segmentation and depth figures, per picture and over a split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims

DEPTH_METRICS = (
    "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3",
)  # fmt: skip


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int, ignore: int) -> Tensor:
    """Count pixels by class.

    Args:
        predicted: ``[H, W]`` int64 in ``0 .. classes - 1``.
        labels: ``[H, W]`` int64, the same or ``ignore``.
        classes: K.
        ignore: Label of pixels that do not count.

    Returns:
        ``[K, K]`` int64, rows are true classes, columns predicted ones.
    """
    check_dims(predicted=(predicted, "H W"), labels=(labels, "H W"))
    used = labels != ignore
    pairs = labels[used] * classes + predicted[used]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def segmentation_metrics(confusion: Tensor) -> dict[str, float]:
    """``miou``, ``macc`` and ``aacc`` of a whole split, in 0..1.

    Classes that neither occur nor are predicted do not enter ``miou``; classes that do not
    occur do not enter ``macc`` (mmsegmentation's convention).

    Args:
        confusion: ``[K, K]``, summed over the split.
    """
    counts = confusion.double()
    hits, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = true + said - hits
    return {
        "miou": _mean_where(hits / union, union > 0),
        "macc": _mean_where(hits / true, true > 0),
        "aacc": float(hits.sum() / true.sum()) if float(true.sum()) else 0.0,
    }


def image_segmentation(confusion: Tensor) -> dict[str, float]:
    """``image_miou`` and ``image_acc`` of one picture, in 0..1.

    ``image_miou`` averages over the classes that occur in the picture; a false class costs the
    classes that it covers.

    Args:
        confusion: ``[K, K]`` of one picture with at least one labelled pixel.
    """
    counts = confusion.double()
    hits, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    return {
        "image_miou": _mean_where(hits / (true + said - hits), true > 0),
        "image_acc": float(hits.sum() / true.sum()),
    }


def depth_metrics(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Eigen et al.'s figures of one picture (arXiv:1406.2283), and ``silog`` in percent.

    Args:
        predicted: ``[P]`` positive depths of the valid pixels, metres.
        truth: ``[P]`` positive measured depths, P > 0.

    Returns:
        The names of ``DEPTH_METRICS``; ``delta1`` is the share of pixels within a factor 1.25.
    """
    check_dims(predicted=(predicted, "P"), truth=(truth, "P"))
    guess, true = predicted.double(), truth.double()
    error = guess - true
    log = guess.log() - true.log()
    ratio = torch.maximum(guess / true, true / guess)
    variance = (log.square().mean() - log.mean().square()).clamp(min=0)
    values = {
        "abs_rel": (error.abs() / true).mean(),
        "sq_rel": (error.square() / true).mean(),
        "rmse": error.square().mean().sqrt(),
        "rmse_log": log.square().mean().sqrt(),
        "log10": (guess.log10() - true.log10()).abs().mean(),
        "silog": 100 * variance.sqrt(),
        **{f"delta{n}": (ratio < 1.25**n).double().mean() for n in (1, 2, 3)},
    }
    return {name: float(values[name]) for name in DEPTH_METRICS}


def mean_of(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over pictures, at least one."""
    return {name: sum(s[name] for s in samples) / len(samples) for name in samples[0]}


def _mean_where(values: Tensor, mask: Tensor) -> float:
    return float(values[mask].mean()) if bool(mask.any()) else 0.0
