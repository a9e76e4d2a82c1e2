"""The README.md of a tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fit3d_cli.backbones.export import cell
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.finetuning.objectives.base import OBJECTIVES
from fit3d_cli.handoff.card import NOT_MEASURED, licence, loading
from fit3d_cli.settings import FinetuneSettings

_CARD = """
# {name}

`{base}` fine-tuned with [fit3d](https://pypi.org/project/fit3d/) on scenes that were lifted into
3D Gaussians (method: FiT3D, Yue et al., ECCV 2024, and the sources below).

{loading}
## Trained

| | |
|---|---|
| scenes | {scenes} |
| targets | {targets} |
| trained | {part} |
| kept | {kept} |
| steps | {steps} |
| L1 to the targets on held-out views, base / tuned | {before} / {after} |
| cosine of tuned to base tokens there | {cosine} |
| ratio of their lengths | {ratio} |

| objective | weight | first tenth of the steps | last tenth | source |
|---|---|---|---|---|
{terms}

{measured}
Whether the tuned model alone serves your task is a measurement: `fit3d probe TASK DATASET` reports
base, tuned and their concatenation (torch.hub entry `concat`). `fit3d export MODEL --to hub` puts
what was measured into this card.

{licence}"""
_PARTS = {
    "full": "all weights",
    "lora": "low-rank updates of rank {rank}, merged",
    "adapter": "a residual 3x3 convolution on the tokens",
    "swin": "one Swin block on the tokens",
}


def model_card(
    settings: FinetuneSettings,
    backbone: Backbone,
    facts: Mapping[str, Any],
) -> str:
    """Markdown for the model directory.

    Args:
        settings: How it was trained.
        backbone: The tuned backbone.
        facts: What ``fit3d.json`` holds: base, scenes, figures.
    """
    figures = facts["figures"]
    drift = figures["drift"] or {}
    return _CARD.format(
        name=cell(settings.name),
        base=cell(str(facts["base"]["name"])),
        loading=loading(backbone, str(facts["base"]["name"])),
        scenes=", ".join(cell(str(scene["name"])) for scene in facts["scenes"]),
        targets=settings.targets.source,
        part=_PARTS[settings.train.part].format(rank=settings.train.rank),
        kept=_kept(settings),
        steps=figures["steps"],
        before=_figure(figures["heldout_before"]),
        after=_figure(figures["heldout_after"]),
        cosine=_figure(drift.get("cosine")),
        ratio=_figure(drift.get("norm_ratio")),
        terms="\n".join(
            f"| {name} | {term['weight']:g} | {term['first']:.4f} | {term['last']:.4f} |"
            f" {OBJECTIVES.get(name).source} |"
            for name, term in figures["terms"].items()
        ),
        measured=NOT_MEASURED,
        licence=licence(backbone),
    )


def _kept(settings: FinetuneSettings) -> str:
    which = f"weights averaged with decay {settings.ema:g}" if settings.ema else "the last weights"
    if settings.interpolate == 1:
        return which
    return f"base + {settings.interpolate:g} (tuned - base), tuned = {which}"


def _figure(value: float | None) -> str:
    return "no held-out views" if value is None else f"{value:.4f}"
