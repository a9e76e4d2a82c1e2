"""Weighted nearest neighbours on one feature per picture (Wu et al., arXiv:1805.01978; DINO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel, all_tokens
from fit3d_cli.images import image_size, read_image, resize_image
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.shapes import check_dims

_PICTURES = 64
_QUERIES = 256
_BANK = 65_536


@dataclass(frozen=True)
class Summaries:
    """One feature per picture, of unit length.

    Attributes:
        whole: ``[N, C]`` float32, the token for the whole picture.
        patches: ``[N, C]`` float32, the mean of the patch tokens.
    """

    whole: Tensor
    patches: Tensor

    def __post_init__(self) -> None:
        check_dims(whole=(self.whole, "N C"), patches=(self.patches, "N C"))


def summarise(
    stage: str,
    model: TokenModel,
    paths: Sequence[Path],
    digests: Sequence[str],
    *,
    width: int,
    batch: int,
    device: str | torch.device,
    cache_dir: Path | None,
    on_event: OnEvent,
) -> Summaries:
    """Compute (or read) the tokens of pictures and keep one feature of each kind.

    A picture keeps its aspect and gets about the area of a square of side ``width``, so that tall
    and wide ones have equally many tokens.

    Args:
        stage: What progress calls it.
        model: The backbone, on ``device``.
        paths: The pictures.
        digests: Their ``image_digest``.
        width: Side of the square, pixels.
        batch: Pictures per forward pass.
        device: Where the model is.
        cache_dir: Token cache, or None.
        on_event: Told about every batch.

    Raises:
        ImageError: A picture cannot be read.
    """
    cache = TokenCache(cache_dir) if cache_dir is not None else None
    whole, patches = [], []
    for start in range(0, len(paths), _PICTURES):
        items = []
        for path, digest in zip(paths[start : start + _PICTURES],
                                digests[start : start + _PICTURES], strict=True):  # fmt: skip
            across, down = image_size(path)
            size = model.input_size(across, down, max(1, round(width * (across / down) ** 0.5)))
            items.append(TokenItem(digest, size, partial(_load, path, size)))
        for tokens in all_tokens(model, items, cache=cache, batch=batch, device=device):
            whole.append(tokens.cls.float())
            patches.append(tokens.patches.float().mean(dim=(0, 1)))
        on_event(Progress(stage, start + len(items), len(paths)))
    unit = torch.nn.functional.normalize
    return Summaries(unit(torch.stack(whole), dim=1), unit(torch.stack(patches), dim=1))


def _load(path: Path, size: tuple[int, int]) -> Tensor:
    return resize_image(read_image(path), *size)


def class_scores(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    k: int,
    temperature: float,
) -> Tensor:
    """Votes of the nearest neighbours: ``sum over the k nearest of exp(cosine / temperature)``.

    Args:
        bank: ``[N, C]`` features of known pictures, unit length.
        labels: ``[N]`` int64 their classes.
        queries: ``[Q, C]`` features of the pictures in question, unit length.
        classes: K.
        k: Neighbours that vote; all of the bank if it is smaller.
        temperature: Of the votes.

    Returns:
        ``[Q, K]`` float64, each row scaled to sum to 1.
    """
    check_dims(bank=(bank, "N C"), labels=(labels, "N"), queries=(queries, "Q C"))
    rows = []
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        near, voters = _nearest(bank, labels, part, k)
        # Relative to the nearest, which changes no ranking and cannot overflow.
        votes = torch.exp((near - near[:, :1]).double() / temperature)
        scores = votes.new_zeros(len(part), classes).scatter_add_(1, voters, votes)
        rows.append(scores / scores.sum(dim=1, keepdim=True))
    return torch.cat(rows)


def _nearest(bank: Tensor, labels: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines ``[Q, k]``, falling, and classes ``[Q, k]`` of the nearest of the bank."""
    near, voters = queries.new_empty(len(queries), 0), labels.new_empty(len(queries), 0)
    for start in range(0, len(bank), _BANK):
        cosines = queries @ bank[start : start + _BANK].T
        near = torch.cat([near, cosines], dim=1)
        own = labels[start : start + _BANK].expand(len(queries), -1)
        voters = torch.cat([voters, own], dim=1)
        near, chosen = near.topk(min(k, near.shape[1]), dim=1)
        voters = voters.gather(1, chosen)
    return near, voters


def top_hits(scores: Tensor, truth: Tensor, count: int) -> Tensor:
    """Whether the true class is among the ``count`` best; a class without a vote never is.

    Args:
        scores: ``[Q, K]`` votes; of equal ones the lower class number counts as better.
        truth: ``[Q]`` int64.
        count: How many may be named.

    Returns:
        ``[Q]`` bool.
    """
    check_dims(scores=(scores, "Q K"), truth=(truth, "Q"))
    own = scores.gather(1, truth[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < truth[:, None]
    before = ((scores > own) | ((scores == own) & lower)).sum(dim=1)
    return (before < count) & (own[:, 0] > 0)
