"""How much rooms' semantics and depth a linear map reads from patch tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fit3d_cli.rooms.pieces import CLASSES
from fit3d_cli.rooms.samples import Samples
from fit3d_cli.shapes import check_dims


@dataclass(frozen=True)
class LinearProbe:
    """Scores on unseen rooms.

    Attributes:
        accuracy: Share of patches whose majority label is predicted.
        mean_iou: Mean over the classes that occur of intersection over union.
        depth_rmse: Root mean square error of the patches' mean depth, metres.
    """

    accuracy: float
    mean_iou: float
    depth_rmse: float


def linear_probe(
    encode: Callable[[Tensor], Tensor], fit: Samples, test: Samples, *, patch: int,
    damping: float = 1.0,
) -> LinearProbe:  # fmt: skip
    """Ridge regression from patch tokens to one-hot labels and to depth.

    Args:
        encode: From ``[B, 3, H, W]`` float32 pictures (mean and deviation 0.5 removed) to
            patch tokens ``[B, H/patch * W/patch, D]``.
        fit: Views that the regression is fitted on.
        test: Views of other rooms.
        patch: Patch size in pixels.
        damping: Ridge parameter relative to the mean diagonal of the standardised Gram matrix
            divided by 1000.
    """
    x, labels, depths = _patches(encode, fit, patch)
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)

    def features(tokens: Tensor) -> Tensor:
        ones = torch.ones(len(tokens), 1, dtype=tokens.dtype)
        return torch.cat([(tokens - mean) / deviation, ones], dim=1)

    a = features(x)
    targets = torch.cat([F.one_hot(labels, len(CLASSES)).to(a), depths[:, None].to(a)], dim=1)
    gram = a.T @ a
    ridge = damping * 1e-3 * gram.diagonal().mean()
    solution = torch.linalg.solve(
        gram + ridge * torch.eye(len(gram), dtype=gram.dtype), a.T @ targets
    )
    x, labels, depths = _patches(encode, test, patch)
    predicted = features(x) @ solution
    picks = predicted[:, :-1].argmax(1)
    confusion = torch.bincount(
        labels * len(CLASSES) + picks, minlength=len(CLASSES) ** 2
    ).reshape(len(CLASSES), len(CLASSES)).to(torch.float64)  # fmt: skip
    hits = confusion.diagonal()
    occurs = confusion.sum(1) > 0
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits).clamp_min(1)
    error = (predicted[:, -1] - depths).square().mean().sqrt()
    return LinearProbe(float(hits.sum() / confusion.sum()), float(iou[occurs].mean()), float(error))


@torch.no_grad()
def _patches(
    encode: Callable[[Tensor], Tensor], samples: Samples, patch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens ``[M, D]`` float64, majority labels ``[M]`` and mean depths ``[M]`` of all patches."""
    batches = torch.split(samples.images, 16)
    tokens = torch.cat([encode((batch.to(torch.float32) / 255 - 0.5) / 0.5) for batch in batches])
    count, height, width = samples.labels.shape
    rows, columns = height // patch, width // patch
    check_dims(tokens=(tokens, f"{count} {rows * columns} D"))
    one_hot = F.one_hot(samples.labels.long(), len(CLASSES)).permute(0, 3, 1, 2).float()
    labels = F.avg_pool2d(one_hot, patch).argmax(1).flatten()
    depths = F.avg_pool2d(samples.depths[:, None], patch).flatten()
    return tokens.flatten(0, 1).to(torch.float64), labels, depths.to(torch.float64)
