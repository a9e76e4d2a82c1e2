"""What metrics are called, which way is better, and how figures are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

TASKS = {
    "seg": "Segmentation",
    "depth": "Depth",
    "corr": "Correspondence",
    "normals": "Surface normals",
    "retrieval": "Retrieval",
}

_HIGHER = {
    "miou": "mIoU", "iou": "IoU", "macc": "mean class accuracy", "acc": "accuracy",
    "pixel_acc": "pixel accuracy", "accuracy": "accuracy", "aacc": "pixel accuracy",
    "image_miou": "mIoU per image", "image_acc": "accuracy per image",
    "d1": "δ < 1.25", "d2": "δ < 1.25²", "d3": "δ < 1.25³",
    "delta1": "δ < 1.25", "delta2": "δ < 1.25²", "delta3": "δ < 1.25³",
    "psnr": "PSNR", "ssim": "SSIM", "cosine": "cosine", "map": "mAP", "pck": "PCK",
    "recall": "recall", "auc": "AUC", "f1": "F1",
}  # fmt: skip
_LOWER = {
    "rmse": "RMSE", "abs_rel": "abs. rel. error", "absrel": "abs. rel. error", "rel": "rel. error",
    "sq_rel": "sq. rel. error", "log10": "log10 error", "log_rmse": "RMSE (log)",
    "rmse_log": "RMSE (log)", "silog": "SILog", "mae": "mean abs. error", "l1": "L1", "l2": "L2",
    "epe": "end-point error", "loss": "loss", "error": "error", "lpips": "LPIPS",
}  # fmt: skip
# Figures of a whole split have no value per image; these are their nearest per-image relatives.
RELATIVES = {"miou": "image_miou", "aacc": "image_acc", "acc": "image_acc"}
# The figure that a task is judged by, the first one that was measured.
HEADLINES = ("miou", "rmse", "recall", "pck", "d1", "delta1", "abs_rel", "acc", "map")


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
    """Label and direction of a metric, by its name or the part of it before ``@`` or ``_``."""
    lower = name.lower()
    stem = lower.split("@")[0]
    for candidate in (lower, stem, stem.rsplit("_", 1)[0], stem.split("_", 1)[0]):
        for table, higher in ((_HIGHER, True), (_LOWER, False)):
            if candidate in table:
                suffix = name[len(candidate) :].replace("_", " ").strip()
                return Metric(name, f"{table[candidate]} {suffix}".strip(), higher)
    return Metric(name, name.replace("_", " "), None)


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
