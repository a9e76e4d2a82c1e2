"""What is known of a backbone before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.hub import cached_file
from fit3d_cli.backbones.load import _create, _resolve, hub_place

_FLOAT = 4  # bytes per weight in the hub's files


@dataclass(frozen=True)
class ModelFacts:
    """A backbone as it will be.

    Attributes:
        name: What the user called it.
        params: Weights.
        dim: Channels of a token, C.
        depth: Blocks.
        patch_size: Pixels per token side.
        licence: Of the weights, as timm states it.
        where: Whether they are a file, in the hub's cache, or must be downloaded.
        folder: Where the file is, or where downloads go.
        bytes: Size of the file; estimated from ``params`` for a download.
        repository: On the hub; empty for a file.
    """

    name: str
    params: int
    dim: int
    depth: int
    patch_size: int
    licence: str
    where: Literal["file", "cache", "download"]
    folder: Path
    bytes: int
    repository: str = ""

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one picture: two per weight and token, and attention."""
        return 2.0 * self.params * tokens + 4.0 * self.depth * self.dim * float(tokens) ** 2


def model_facts(name: str, weights: str = "") -> ModelFacts:
    """Look a backbone up, without loading or downloading weights.

    Args:
        name: As ``load_backbone``.
        weights: As ``load_backbone``.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: A model directory is damaged.
    """
    recipe = _resolve(name)
    overlay = dict(recipe.pretrained_cfg)
    with torch.device("meta"):
        model: Any = _create(recipe.timm_id, overlay, {**recipe.model_args, "num_classes": 0})
    params = sum(p.numel() for p in model.parameters())
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    licence = str(config.get("license") or "licence unknown")
    if name in BACKBONES:
        licence = BACKBONES.get(name).licence
    shape = (params, int(model.embed_dim), len(model.blocks), int(model.patch_embed.patch_size[0]))
    file = Path(weights).expanduser() if weights else recipe.file
    if file is not None:
        size = file.stat().st_size if file.is_file() else _FLOAT * params
        return ModelFacts(name, *shape, licence, "file", file.parent, size)
    repository, cached = _hub_place(recipe.timm_id)
    if cached is not None:
        return ModelFacts(
            name, *shape, licence, "cache", _cache(), cached.stat().st_size, repository
        )
    return ModelFacts(name, *shape, licence, "download", _cache(), _FLOAT * params, repository)


def _hub_place(timm_id: str) -> tuple[str, Path | None]:
    """Repository of the weights, and their file if it is in the cache."""
    place = hub_place(timm_id)
    return ("", None) if place is None else (place[0], cached_file(*place))


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
