"""``finetune``: archives in, a tuned model directory out."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fit3d_cli import __version__, storage
from fit3d_cli.backbones.export import read_provenance, write_model_directory
from fit3d_cli.backbones.load import WEIGHTS_NAME, load_backbone
from fit3d_cli.backbones.model import Backbone, state_digest
from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import Fit3dError, SettingsError, WeightsError
from fit3d_cli.finetuning.card import model_card
from fit3d_cli.finetuning.targets import SceneTargets, find_targets, render_targets
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.progress import OnEvent
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.backends import splat_device
from fit3d_cli.workspace import Workspace

# Raised whenever the same settings would give other weights.
ALGORITHM = 1
# The backbone may be a path of this machine; its own name and identity stand in its place.
_OFF_THE_RECORD = {"name", "checkpoint_every", "backbone"}
_ENDS = 0.1  # first and last loss are means over this share of the steps


@dataclass(frozen=True)
class FinetuneResult:
    """What came out.

    Attributes:
        path: Model directory, loadable as ``timm.create_model("local-dir:<path>")``.
        steps: Optimisation steps.
        loss_first: Mean L1 over the first tenth of the steps.
        loss_last: Mean L1 over the last tenth.
        heldout_before: L1 of the base on views that took no part; NaN without such views.
        heldout_after: L1 of the tuned model on them.
        seconds: Wall time of this run.
        skipped: True if the model was there already.
    """

    path: Path
    steps: int
    loss_first: float
    loss_last: float
    heldout_before: float
    heldout_after: float
    seconds: float
    skipped: bool = False


def finetune(
    archives: list[Path],
    settings: FinetuneSettings,
    *,
    workspace: Path,
    device: str,
    seed: int,
    captures: list[Path],
    on_event: OnEvent,
) -> FinetuneResult:
    """Tune the backbone that lifted the scenes on their rendered features.

    Args:
        archives: Scenes, all lifted with the same backbone.
        settings: How to train.
        workspace: Where the model and the caches go.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides order and mirroring.
        captures: Where photos lie if they were moved.
        on_event: Told about progress.

    Raises:
        Fit3dError: Damaged or mixed archives, missing photos, foreign weights, full disk.
    """
    began = time.monotonic()
    place = Workspace(workspace)
    target = place.models_dir / settings.name
    storage.require_writable(target)
    storage.require_writable(place.cache_dir)
    scenes = [find_targets(path, place, captures) for path in archives]
    where, splats = resolve_device(device), splat_device(device)
    backbone = _base(scenes, archives, settings, place, where)
    plan = _plan(scenes, backbone, settings, seed)
    finished = _finished(target, plan)
    checkpoints = place.cache_dir / "finetune" / plan
    place.sweep()
    if finished is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)  # killed just before it could do so
        return _result(target, finished, 0.0, skipped=True)
    for scene in scenes:
        render_targets(scene, on_event, splats)
    with storage.locked(checkpoints / "training"):
        base = copy.deepcopy(backbone) if settings.anchor > 0 else None
        trainer = Trainer(backbone, base, scenes, settings, where, seed)
        before = trainer.heldout_loss(on_event, "held-out views, base")
        trainer.run(checkpoints, on_event)
        after = trainer.heldout_loss(on_event, "held-out views, tuned")
        ends = max(1, round(_ENDS * trainer.steps))
        figures = {
            "steps": trainer.steps,
            "loss_first": sum(trainer.losses[:ends]) / ends,
            "loss_last": sum(trainer.losses[-ends:]) / ends,
            "heldout_before": before if math.isfinite(before) else None,
            "heldout_after": after if math.isfinite(after) else None,
        }
        # What the model is, and nothing of when or where it was made: same inputs, same bytes.
        facts = {
            "fit3d": __version__,
            "plan": plan,
            "seed": seed,
            "base": {"name": scenes[0].source.backbone, "weights_sha256": _source(scenes)},
            "scenes": [{"name": s.name, "digest": s.digest} for s in scenes],
            "settings": settings.model_dump(
                mode="json", exclude_defaults=True, exclude=_OFF_THE_RECORD
            ),
            "figures": figures,
        }
        write_model_directory(
            target, backbone, card=model_card(settings.name, backbone, facts), extra=facts
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return _result(target, figures, time.monotonic() - began)


def _source(scenes: list[SceneTargets]) -> str:
    return scenes[0].source.weights_sha256


def _base(
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
        if scene.source.weights_sha256 != _source(scenes):
            raise SettingsError(
                f"lifted with {scene.source.backbone}, but {archives[0].name} with "
                f"{scenes[0].source.backbone} (other weights)",
                where=archive,
                hint="tune on scenes of one backbone: name them on the command line",
            )
    name = settings.backbone.name or scenes[0].source.backbone
    weights = settings.backbone.weights
    if not weights and not settings.backbone.name:
        name, weights = place.backbone_of(_source(scenes), name)
    backbone = load_backbone(name, weights=weights, device=device)
    if backbone.weights_sha256 != _source(scenes):
        raise WeightsError(
            f"not the weights that {scenes[0].name} was lifted with "
            f"({scenes[0].source.backbone}, sha256 {_source(scenes)[:12]})",
            where=weights or name,
            hint="name them with --backbone and --weights, or lift the scenes again",
        )
    return backbone


def _plan(
    scenes: list[SceneTargets], backbone: Backbone, settings: FinetuneSettings, seed: int
) -> str:
    """Digest of everything that decides the tuned weights."""
    parts = [
        ALGORITHM, [scene.digest for scene in scenes], backbone.name, backbone.identity, seed,
        settings.model_dump(mode="json", exclude=_OFF_THE_RECORD),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _finished(target: Path, plan: str) -> dict[str, Any] | None:
    """Figures of an earlier run of the same plan, if its model directory is whole."""
    try:
        provenance = read_provenance(target)
        weights = read_weights(target / WEIGHTS_NAME)
    except Fit3dError:
        return None
    if state_digest(weights) != provenance.get("weights_sha256"):
        return None
    figures = provenance.get("figures")
    complete = (target / "config.json").is_file() and provenance.get("plan") == plan
    return figures if complete and isinstance(figures, dict) else None


def _result(
    target: Path, figures: dict[str, Any], seconds: float, *, skipped: bool = False
) -> FinetuneResult:
    before, after = figures["heldout_before"], figures["heldout_after"]
    return FinetuneResult(
        target,
        int(figures["steps"]),
        float(figures["loss_first"]),
        float(figures["loss_last"]),
        float("nan") if before is None else float(before),
        float("nan") if after is None else float(after),
        seconds,
        skipped,
    )
