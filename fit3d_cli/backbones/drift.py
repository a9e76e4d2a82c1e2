"""How far tuning moved the tokens of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drift:
    """Tuned tokens against the base's, of one picture.

    Attributes:
        cosine: Mean cosine similarity of tuned and base tokens at the same place.
        norm_ratio: Mean length of tuned tokens over that of base tokens.
    """

    cosine: float
    norm_ratio: float


def token_drift(base: Tensor, tuned: Tensor) -> Drift | None:
    """Drift between ``[h, w, C]`` tokens of one picture; None if their shapes differ."""
    if base.shape != tuned.shape:
        return None
    ours, theirs = base.double(), tuned.double()
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).mean()
    lengths = ours.norm(dim=-1).mean(), theirs.norm(dim=-1).mean()
    return Drift(float(cosine), float(lengths[1] / lengths[0].clamp(min=1e-12)))
