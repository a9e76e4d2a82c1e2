"""How far tuning moved the tokens: their cosine to the base's and the ratio of their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenItem, TokenModel, all_tokens
from fit3d_cli.backbones.drift import Drift, token_drift
from fit3d_cli.images import image_size, read_image, resize_image
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.report import Figure
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.statistics import mean_figure


def measure_drift(
    base: TokenModel,
    tuned: TokenModel,
    pictures: Sequence[Path],
    settings: ProbeSettings,
    *,
    device: str | torch.device,
    seed: int,
    on_event: OnEvent,
) -> dict[str, Figure]:
    """Compare the patch tokens of two models, picture by picture.

    Args:
        base: The reference.
        tuned: What was tuned from it.
        pictures: Of these ``settings.drift_images`` are taken, evenly.
        settings: Size and batch of the backbone.
        device: Where the models are.
        seed: Of the intervals.
        on_event: Told about progress.

    Returns:
        ``cosine`` and ``norm_ratio``, means over pictures of ``token_drift``; empty when no
        picture was asked for, or the models' tokens do not correspond.

    Raises:
        ImageError: A picture cannot be read.
    """
    count = min(settings.drift_images, len(pictures))
    chosen = [pictures[(2 * i + 1) * len(pictures) // (2 * count)] for i in range(count)]
    found: list[Drift] = []
    for start in range(0, count, settings.backbone.batch):
        part = chosen[start : start + settings.backbone.batch]
        on_event(Progress("drift", start, count))
        tokens = []
        for model in (base, tuned):
            items = [_item(path, model, settings.backbone.width) for path in part]
            tokens.append(all_tokens(model, items, cache=None, batch=len(part), device=device))
        for ours, theirs in zip(*tokens, strict=True):
            drift = token_drift(ours.patches, theirs.patches)
            if drift is None:
                on_event(Progress("drift", count, count, "tokens do not correspond"))
                return {}
            found.append(drift)
    if not found:
        return {}
    on_event(Progress("drift", count, count))
    return {
        "cosine": mean_figure([drift.cosine for drift in found], seed=seed),
        "norm_ratio": mean_figure([drift.norm_ratio for drift in found], seed=seed),
    }


def _item(path: Path, model: TokenModel, width: int) -> TokenItem:
    size = model.input_size(*image_size(path), width)
    return TokenItem(str(path), size, partial(_load, path, size))


def _load(path: Path, size: tuple[int, int]) -> Tensor:
    return resize_image(read_image(path), *size)
