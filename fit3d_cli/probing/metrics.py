"""Segmentation and depth figures, per picture and over a split."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.shapes import check_dims
from fit3d_cli.statistics import Pooled

DEPTH_METRICS = (
    "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3",
)  # fmt: skip


def class_counts(predicted: Tensor, labels: Tensor, classes: int, ignore: int) -> Tensor:
    """Count pixels by class.

    Args:
        predicted: ``[H, W]`` int64 in ``0 .. classes - 1``.
        labels: ``[H, W]`` int64, the same or ``ignore``.
        classes: K.
        ignore: Label of pixels that do not count, whatever is predicted there.

    Returns:
        ``[3, K]`` int64: pixels rightly predicted, of the true class, predicted.
    """
    check_dims(predicted=(predicted, "H W"), labels=(labels, "H W"))
    used = labels != ignore
    said, true = predicted[used], labels[used]
    return torch.stack(
        [torch.bincount(some, minlength=classes) for some in (true[said == true], true, said)]
    )


def image_segmentation(counts: Tensor) -> dict[str, float]:
    """``image_miou`` and ``image_acc`` of one picture, in 0..1; NaN without a labelled pixel.

    ``image_miou`` averages over the classes that occur in the picture; a false class costs the
    classes that it covers.

    Args:
        counts: ``[3, K]`` from ``class_counts``.
    """
    hits, true, said = counts.double()
    return {
        "image_miou": float(_mean_where(hits / (true + said - hits), true > 0)),
        "image_acc": float(hits.sum() / true.sum()),
    }


def split_segmentation(counts: Tensor) -> dict[str, Pooled]:
    """``miou``, ``macc`` and ``aacc`` of a whole split, in 0..1.

    Classes that neither occur nor are predicted do not enter ``miou``; classes that do not
    occur do not enter ``macc`` (mmsegmentation's convention).

    Args:
        counts: ``[n, 3, K]`` float64, ``class_counts`` of every picture; NaN where not scored.
    """
    hits, true, said = counts.unbind(1)
    return {
        "miou": Pooled(torch.cat([hits, true + said - hits], 1), _mean_share),
        "macc": Pooled(torch.cat([hits, true], 1), _mean_share),
        "aacc": Pooled(torch.stack([hits.sum(1), true.sum(1)], 1), _mean_share),
    }


def _mean_share(sums: Tensor) -> Tensor:
    """``[..., 2 K]`` counts and wholes to the mean share over the classes that have a whole."""
    part, whole = sums.chunk(2, dim=-1)
    return _mean_where(part / whole, whole > 0)


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


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where ``mask``; NaN where it is nowhere."""
    return torch.where(mask, values, torch.nan).nanmean(dim=-1)
