"""From a tuned model back to its base, and to models on the line between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fit3d_cli.backbones.average import interpolate_state
from fit3d_cli.backbones.export import CARD_NAME, cell, read_provenance, write_model_directory
from fit3d_cli.backbones.load import CONFIG_NAME, load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import WeightsError
from fit3d_cli.workspace import Workspace

# Facts of a training that hold for the weights that came out of it, and for no others.
_OF_THE_WEIGHTS = ("schema", "backbone", "timm_id", "weights_sha256", "licence", "adapter",
                   "plan", "figures")  # fmt: skip
_CARD = """# {name}

`base + {alpha:g} (tuned - base)` of every weight: base `{base}`, tuned `{tuned}`.

No figure of the tuned model holds for this one: measure it with `fit3d probe`.
The tuned model's own `{card}` says what it was trained on{adapter}.
"""
_ADAPTER = (
    ". An adapter follows the backbone (`adapter.safetensors`):\n"
    "`timm.create_model` leaves it out, fit3d applies it"
)


def load_tuned(directory: Path, *, device: str | torch.device = "cpu") -> Backbone:
    """A tuned model whose weights are the ones that its ``fit3d.json`` describes.

    Raises:
        WeightsError: Unfinished, damaged, or put together from two models.
    """
    backbone = load_backbone(str(directory), device=device)
    if read_provenance(directory).get("weights_sha256") != backbone.weights_sha256:
        raise WeightsError(
            "the weights are not the ones that fit3d.json describes",
            where=directory,
            hint="copy the whole model directory again, or run fit3d finetune again",
        )
    return backbone


def load_base(
    directory: Path,
    place: Workspace,
    *,
    name: str = "",
    weights: str = "",
    device: str | torch.device = "cpu",
) -> Backbone:
    """What a model was tuned from, proved by the digest of its weights.

    Args:
        directory: Of the tuned model.
        place: Remembers where the base's weights lie.
        name: Backbone to take instead of the remembered one.
        weights: File to take instead of the remembered one.
        device: Where the weights go.

    Raises:
        WeightsError: It is not known, gone, or another one.
        OfflineError: It would have to be downloaded and the hub does not answer.
    """
    origin = read_provenance(directory).get("base")
    digest = str(origin.get("weights_sha256") or "") if isinstance(origin, Mapping) else ""
    if not isinstance(origin, Mapping) or not digest:
        raise WeightsError(
            "does not say what it was tuned from",
            where=directory,
            hint="name a model that fit3d finetune wrote",
        )
    called = name or str(origin.get("name") or "")
    if not name and not weights:
        called, weights = place.backbone_of(digest, called)
    inside = place.models_dir / called
    if (inside / CONFIG_NAME).is_file():
        called = str(inside)
    backbone = load_backbone(called, weights=weights, device=device)
    if backbone.weights_sha256 != digest:
        raise WeightsError(
            f"not the weights that {directory.name} was tuned from (sha256 {digest[:12]})",
            where=weights or called,
            hint="name them with --backbone and --weights",
        )
    return backbone


def write_interpolated(
    directory: Path,
    base: Backbone,
    tuned: Path,
    alpha: float,
    *,
    device: str | torch.device,
    files: Mapping[str, str] | None = None,
) -> Backbone:
    """Write ``base + alpha (tuned - base)`` as a model directory of its own.

    Args:
        directory: Where; a model in it is replaced.
        base: From ``load_base``.
        tuned: Directory of the tuned model.
        alpha: 0 = base, 1 = tuned.
        device: Where to compute.
        files: As for ``write_model_directory``.

    Returns:
        What was written.

    Raises:
        WeightsError: The tuned model is damaged, or not of the base's architecture.
        StorageError: The disk refused.
    """
    made = load_tuned(tuned, device=device)
    facts: dict[str, Any] = {
        key: value for key, value in read_provenance(tuned).items() if key not in _OF_THE_WEIGHTS
    }
    facts["interpolated"] = {"alpha": alpha, "tuned_sha256": made.weights_sha256}
    made.load(interpolate_state(base.state(), made.state(), alpha))
    card = _CARD.format(
        name=cell(directory.name), alpha=alpha, base=cell(base.name),
        tuned=cell(tuned.resolve().name),
        card=CARD_NAME, adapter=_ADAPTER if made.adapter_kind else "",
    )  # fmt: skip
    write_model_directory(directory, made, card=card, extra=facts, files=files)
    return made
