"""Which place of one picture looks like a place of another: cosine nearest neighbours.

Nothing here knows depth or cameras. Places are x and y in 0..1 of a picture's width and height;
token (i, j) of an ``h x w`` grid lies at the centre of its patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from fit3d_cli.geometry.correspond import grid_places
from fit3d_cli.shapes import check_dims

_CHUNK_VALUES = 1 << 24  # similarities that are held at once


def nearest_patches(queries: Tensor, tokens: Tensor) -> Tensor:
    """Centres of the patches whose tokens are most similar, by cosine.

    Args:
        queries: ``[P, C]``.
        tokens: ``[h, w, C]`` of the other picture.

    Returns:
        ``[P, 2]`` float64 places in the other picture.
    """
    sizes = check_dims(queries=(queries, "P C"), tokens=(tokens, "h w C"))
    centres = grid_places(sizes["w"], sizes["h"])
    if not len(queries):
        return centres[:0]
    rows = normalize(queries.float(), dim=1)
    columns = normalize(tokens.float(), dim=2).flatten(0, 1)
    step = max(1, _CHUNK_VALUES // len(columns))
    best = torch.cat([(part @ columns.T).argmax(1) for part in torch.split(rows, step)])
    return centres[best.cpu()]


@dataclass(frozen=True)
class Matches:
    """The surest matches of two pictures, surest first.

    Attributes:
        first: ``[M]`` numbers of the pixels of the first picture, row by row.
        second: ``[M]`` numbers of the pixels of the second that match them.
        weights: ``[M]`` one minus the ratio of the nearest to the second nearest distance.
    """

    first: Tensor
    second: Tensor
    weights: Tensor


def pixel_features(tokens: Tensor, width: int, height: int) -> Tensor:
    """Unit features of ``width x height`` pixels, bilinear between the raw tokens.

    Args:
        tokens: ``[h, w, C]``.
        width: Pixels per row.
        height: Rows.

    Returns:
        ``[height * width, C]`` float32.
    """
    check_dims(tokens=(tokens, "h w C"))
    maps = tokens.float().permute(2, 0, 1)[None]
    pixels = interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    return normalize(pixels[0].flatten(1).T.contiguous(), dim=1)


def confident_matches(
    first: Tensor, second: Tensor, usable_first: Tensor, usable_second: Tensor, count: int
) -> Matches:
    """The ``count`` matches that pass the ratio test best, from the first picture to the second.

    For every usable pixel of the first picture its two nearest usable pixels of the second are
    found, at cosine distances ``d1 <= d2``; its weight is ``1 - d1 / d2`` (probe3d's protocol).
    A picture with fewer than two usable pixels gives no matches.

    Args:
        first: ``[P, C]`` unit features, see ``pixel_features``.
        second: ``[Q, C]`` unit features.
        usable_first: ``[P]`` bool.
        usable_second: ``[Q]`` bool.
        count: Matches at most.
    """
    check_dims(first=(first, "P C"), second=(second, "Q C"), usable_first=(usable_first, "P"),
               usable_second=(usable_second, "Q"))  # fmt: skip
    asked = torch.nonzero(usable_first.cpu()).flatten()
    answers = torch.nonzero(usable_second.cpu()).flatten()
    if not len(asked) or len(answers) < 2:
        empty = torch.empty(0)
        return Matches(empty.long(), empty.long(), empty)
    rows, columns = first[asked.to(first.device)], second[answers.to(second.device)]
    found, sure = [], []
    for part in torch.split(rows, max(1, _CHUNK_VALUES // len(columns))):
        similar = part @ columns.T
        # Twice the maximum takes a quarter of the time of topk.
        nearest, best = similar.max(dim=1)
        runner_up = similar.scatter_(1, best[:, None], -math.inf).amax(dim=1)
        d1, d2 = ((1 - value).clamp(min=1e-9) for value in (nearest, runner_up))
        found.append(best.cpu())
        sure.append((1 - d1 / d2).cpu())
    weights = torch.cat(sure)
    top = weights.sort(descending=True, stable=True).indices[:count]
    return Matches(asked[top], answers[torch.cat(found)[top]], weights[top])
