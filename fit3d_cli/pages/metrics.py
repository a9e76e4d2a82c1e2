"""What metrics are called, which way is better, and how figures are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TASKS = {
    "seg": "Segmentation",
    "depth": "Depth",
    "corr": "Correspondence",
    "cls": "Classification",
    "transfer": "Keypoint transfer",
    "track": "Tracking",
    "pose": "Object pose",
}

_HIGHER = {
    "miou": "mIoU", "iou": "IoU", "macc": "mean class accuracy", "acc": "accuracy",
    "accuracy": "accuracy", "aacc": "pixel accuracy", "top1": "top-1 accuracy",
    "top5": "top-5 accuracy", "patch_top1": "top-1, mean of patches",
    "patch_top5": "top-5, mean of patches", "image_miou": "mIoU per image",
    "image_acc": "accuracy per image",
    "delta1": "δ < 1.25", "delta2": "δ < 1.25²", "delta3": "δ < 1.25³",
    "psnr": "PSNR", "ssim": "SSIM", "cosine": "cosine", "map": "mAP", "pck": "PCK",
    "pcdp": "PCDP", "recall": "recall", "auc": "AUC", "f1": "F1", "aj": "average Jaccard",
    "delta_avg": "δ average", "delta": "δ", "oa": "occlusion accuracy",
}  # fmt: skip
_LOWER = {
    "rmse": "RMSE", "abs_rel": "abs. rel. error", "rel": "rel. error", "sq_rel": "sq. rel. error",
    "log10": "log10 error", "log_rmse": "RMSE (log)", "rmse_log": "RMSE (log)", "silog": "SILog",
    "mae": "mean abs. error", "l1": "L1", "l2": "L2", "epe": "end-point error", "loss": "loss",
    "error": "error", "lpips": "LPIPS", "ape": "APE, %",
}  # fmt: skip
# What a task is judged by comes first; the others are shown without being asked for.
_SHOWN: Mapping[str, Sequence[str]] = {
    "seg": ("miou", "macc", "aacc"),
    "depth": ("rmse", "abs_rel", "delta1"),
    "corr": (
        "recall@1patch", "recall@1patch:0-15deg", "recall@1patch:15-30deg",
        "recall@1patch:30-60deg", "recall@1patch:60-180deg", "recall@10px", "ape",
    ),
    "cls": ("top1", "patch_top1"),
    "transfer": ("pck@0.10", "different pck@0.10", "same pck@0.10"),
    "track": ("aj", "delta_avg", "oa"),
    "pose": ("5cm 5deg", "3cm 3deg", "1cm 1deg"),
}  # fmt: skip
_HEADLINES = ("miou", "rmse", "recall", "pck", "top1", "aj", "delta1", "abs_rel", "acc", "map")
_LIMITS = re.compile(r"(\d{1,4})\s?cm\W{0,3}(\d{1,4})\s?deg")


@dataclass(frozen=True)
class Metric:
    """How a metric is named and read.

    Attributes:
        name: As in the report.
        label: For people.
        higher_is_better: None when unknown; such a metric is shown but never judged.
    """

    name: str
    label: str
    higher_is_better: bool | None

    @property
    def arrow(self) -> str:
        """↑ when more is better, ↓ when less is better, empty when unknown."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]


def metric(name: str) -> Metric:
    """Label and direction of a metric.

    The name is known as a whole, by what stands before ``@`` or ``_``, or by the last word before
    ``@`` (``same pck@0.10``); what follows ``:`` is the bin that it is of.
    """
    whole, _, bin_ = name.partition(":")
    lower = whole.lower()
    where = f" {_bin(bin_)}" if bin_ else ""
    limits = _LIMITS.fullmatch(lower)
    if limits:
        return Metric(name, f"within {limits[1]} cm and {limits[2]}°{where}", True)
    stem = lower.split("@")[0]
    last = stem.rsplit(" ", 1)[-1]
    for candidate in (lower, stem, last, stem.rsplit("_", 1)[0], stem.split("_", 1)[0]):
        for table, higher in ((_HIGHER, True), (_LOWER, False)):
            if candidate in table:
                before, _, after = lower.partition(candidate)
                words = (before.strip(), table[candidate], after.replace("_", " ").strip())
                return Metric(name, " ".join(filter(None, words)) + where, higher)
    return Metric(name, whole.replace("_", " ") + where, None)


def _bin(name: str) -> str:
    """``15-30deg`` and ``0.5depth+`` for people."""
    for unit, words in (("deg", "°"), ("depth", " of the depth")):
        if unit in name:
            ends = name.replace(unit, words).replace("-", "–")
            return f"over {ends.removesuffix('+')}" if ends.endswith("+") else ends
    return name


def ordered(task: str, names: Sequence[str]) -> list[str]:
    """All metrics: those that are always shown, the other whole ones, then the bins, rising."""
    first = shown_first(task, names)

    def key(name: str) -> tuple[bool, str, str, float]:
        whole, colon, bin_ = name.partition(":")
        low = re.match(r"[\d.]*", bin_)
        unit = re.sub(r"[\d.+-]", "", bin_)
        return bool(colon), whole if colon else "", unit, float((low and low[0]) or 0)

    return first + sorted((name for name in names if name not in first), key=key)


def shown_first(task: str, names: Sequence[str]) -> list[str]:
    """The few metrics of a task that are always shown, the one that judges it first.

    Args:
        task: Of the report.
        names: What was measured.

    Returns:
        At least one name where any metric has a known direction.
    """
    wanted = [name for name in _SHOWN.get(task, ()) if name in names]
    if wanted:
        return wanted
    for stem in _HEADLINES:
        found = [name for name in names if stem in re.split(r"[@: ]", name.lower())]
        if found:
            return found[:1]
    return [name for name in names if metric(name).higher_is_better is not None][:1]


def number(value: float) -> str:
    """Three to four significant digits."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(float(f"{value:.3g}"))  # of what is shown, so that 0.09999 is not 0.1000
    if size >= 1000:
        return f"{value:.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 10:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.1 else f"{value:.4f}" if size >= 0.001 else f"{value:.2g}"


def signed(value: float) -> str:
    """``number`` with its sign, a true minus."""
    if not math.isfinite(value):
        return "–"
    return f"{'−' if value < 0 else '+' if value > 0 else ''}{number(abs(value))}"
