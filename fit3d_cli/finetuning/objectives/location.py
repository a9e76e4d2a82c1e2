"""Where a point is found: soft-argmax over the whole other picture.

The cosines of a point's feature to all tokens of the other picture, through a softmax of
temperature 0.02, average the tokens' places; the error is the mean of |dx| and |dy| to the true
place, in coordinates from -1 to 1. Every pair is used in both directions. A true place beyond the
outermost patch centres counts as on them, since no average of centres gets there.
"""

from __future__ import annotations

from torch import Tensor

from fit3d_cli.finetuning.batch import Batch, Pairs
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, Objective, Outputs
from fit3d_cli.finetuning.objectives.tokens import features_at, over_pairs, point_counts, unit
from fit3d_cli.geometry.correspond import grid_places
from fit3d_cli.settings import FinetuneSettings

_TEMPERATURE = 0.02


def _error(query: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """Summed error of features ``[P, C]`` looked for in ``[h, w, C]`` tokens."""
    height, width = tokens.shape[:2]
    centres = grid_places(width, height).to(tokens)
    chances = (query @ unit(tokens.flatten(0, 1)).T / _TEMPERATURE).softmax(dim=1)
    wanted = places.to(tokens).maximum(centres[0]).minimum(centres[-1])
    return 2 * (chances @ centres - wanted).abs().mean(1).sum()


def _errors(batch: Batch, outputs: Outputs, settings: FinetuneSettings) -> Tensor:
    def error(pairs: Pairs) -> Tensor:
        one, other = outputs.student[pairs.first], outputs.student[pairs.second]
        forth = _error(features_at(one, pairs.places_first), other, pairs.places_second)
        back = _error(features_at(other, pairs.places_second), one, pairs.places_first)
        return (forth + back) / 2

    return over_pairs(outputs.student, batch, error)


OBJECTIVES.add(
    "location",
    Objective(
        "Multi-View Foundation Models (arXiv 2512.15708), on single-view tokens",
        "pairs", point_counts, _errors,
    ),
)  # fmt: skip
