"""The backbone that the scenes were lifted with, and which part of it is trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.parts import make_trainable
from fit3d_cli.errors import SettingsError, WeightsError
from fit3d_cli.finetuning.targets import SceneTargets
from fit3d_cli.settings import FinetuneSettings, TrainableSettings
from fit3d_cli.workspace import Workspace


def weights_of(scenes: list[SceneTargets]) -> str:
    """``weights_sha256`` of the backbone that lifted the first scene."""
    return scenes[0].source.weights_sha256


def load_base(
    scenes: list[SceneTargets],
    archives: list[Path],
    settings: FinetuneSettings,
    place: Workspace,
    device: torch.device,
) -> Backbone:
    """The backbone that lifted the scenes, proved by the digest of its weights.

    Raises:
        SettingsError: The scenes were lifted with different backbones.
        WeightsError: The weights at hand are not the ones that lifted the scenes.
    """
    for scene, archive in zip(scenes, archives, strict=True):
        if scene.source.weights_sha256 != weights_of(scenes):
            raise SettingsError(
                f"lifted with {scene.source.backbone}, but {archives[0].name} with "
                f"{scenes[0].source.backbone} (other weights)",
                where=archive,
                hint="tune on scenes of one backbone: name them on the command line",
            )
    name = settings.backbone.name or scenes[0].source.backbone
    weights = settings.backbone.weights
    if not weights and not settings.backbone.name:
        name, weights = place.backbone_of(weights_of(scenes), name)
    backbone = load_backbone(name, weights=weights, device=device)
    if backbone.weights_sha256 != weights_of(scenes):
        raise WeightsError(
            f"not the weights that {scenes[0].name} was lifted with "
            f"({scenes[0].source.backbone}, sha256 {weights_of(scenes)[:12]})",
            where=weights or name,
            hint="name them with --backbone and --weights, or lift the scenes again",
        )
    return backbone


def thaw(backbone: Backbone, train: TrainableSettings, seed: int) -> dict[str, nn.Parameter]:
    """Freeze all of a backbone but what ``finetune.train`` names, in place.

    Args:
        backbone: As loaded.
        train: Which part.
        seed: Draws what does not start at zero.

    Returns:
        The trained parameters by name.

    Raises:
        SettingsError: The backbone has no such part.
    """
    return make_trainable(
        backbone, part=train.part, rank=train.rank, blocks=train.blocks, layers=train.layers,
        keep_norm=train.keep_norm, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
