"""``finetune``: archives in, a tuned model directory out."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fit3d_cli import __version__, storage
from fit3d_cli.backbones.export import read_provenance, stored_digest
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import Fit3dError, SettingsError
from fit3d_cli.finetuning.base import load_base, thaw, weights_of
from fit3d_cli.finetuning.card import model_card
from fit3d_cli.finetuning.checks import check_room, warn_idle
from fit3d_cli.finetuning.distributed import Processes
from fit3d_cli.finetuning.heldout import HeldOut, measure_heldout
from fit3d_cli.finetuning.history import history_lines, write_model
from fit3d_cli.finetuning.joining import joined
from fit3d_cli.finetuning.objectives.base import OBJECTIVES, active_objectives
from fit3d_cli.finetuning.pairs import find_partners
from fit3d_cli.finetuning.precision import precision
from fit3d_cli.finetuning.preflight import LESS, finetune_sizes
from fit3d_cli.finetuning.targets import (
    SceneTargets,
    check_depths,
    check_targets,
    find_targets,
    prepare_targets,
)
from fit3d_cli.finetuning.trainer import Trainer
from fit3d_cli.preflight import Needs, require
from fit3d_cli.progress import OnEvent, ignore
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.backends import splat_device
from fit3d_cli.workspace import Workspace

# Raised whenever the same settings would give other weights.
ALGORITHM = 2
# The backbone may be a path of this machine; its own name and identity stand in its place.
_OFF_THE_RECORD = {"name", "checkpoint_every", "backbone", "heldout_points", "workers"}
_Partners = Sequence[Sequence[Sequence[int]]]  # of each scene, of each view
_ENDS = 0.1  # first and last loss are means over this share of the steps


@dataclass(frozen=True)
class FinetuneResult:
    """What came out.

    Attributes:
        path: Model directory, loadable as ``timm.create_model("local-dir:<path>")``.
        steps: Optimisation steps.
        loss_first: Mean objective over the first tenth of the steps.
        loss_last: Mean objective over the last tenth.
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
    """Tune the backbone that lifted the scenes on what the scenes know.

    Started by ``torchrun``, the processes share every batch; the first one writes.

    Args:
        archives: Scenes, all lifted with the same backbone.
        settings: How to train.
        workspace: Where the model and the caches go.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides every random draw.
        captures: Where photos lie if they were moved.
        on_event: Told about progress, in the first process.

    Raises:
        Fit3dError: Damaged or mixed archives, missing photos, foreign weights, full disk.
        PeerError: Another process failed.
    """
    with joined(resolve_device(device)) as processes:
        splats = processes.together(lambda: splat_device(device))
        told = on_event if processes.leads else ignore
        run = _Run(settings, Workspace(workspace), seed, processes, splats, told)
        return run.run(archives, captures)


@dataclass(frozen=True)
class _Run:
    """One call of ``finetune`` in one process."""

    settings: FinetuneSettings
    place: Workspace
    seed: int
    processes: Processes
    splats: torch.device
    on_event: OnEvent

    @property
    def target(self) -> Path:
        return self.place.models_dir / self.settings.name

    @property
    def _paired(self) -> bool:
        """Whether a term needs correspondences."""
        names = active_objectives(self.settings)
        return any(OBJECTIVES.get(name).needs == "pairs" for name in names)

    def run(self, archives: list[Path], captures: list[Path]) -> FinetuneResult:
        began = time.monotonic()
        scenes, backbone = self.processes.together(lambda: self._open(archives, captures))
        plan = _plan(scenes, backbone, self.settings, self.seed)
        # The first process alone looks, so that all of them take the same way.
        found = _finished(self.target, plan) if self.processes.leads else None
        checkpoints = self.place.cache_dir / "finetune" / plan
        if int(self.processes.sum(torch.tensor(float(found is not None)))):
            # Killed just before it could do so.
            self.processes.lead(lambda: shutil.rmtree(checkpoints, ignore_errors=True))
            figures = found or read_provenance(self.target)["figures"]
            return _result(self.target, figures, 0.0, skipped=True)
        self.processes.together(lambda: self._check_needs(scenes, backbone))
        warn_idle(self.settings, self.processes, paired=self._paired)
        self.processes.lead(self.place.sweep)
        scenes, partners = self._prepare(scenes, backbone)
        with ExitStack() as held:
            lock = storage.locked(checkpoints / "training")
            self.processes.lead(lambda: held.enter_context(lock))
            figures = self._train(scenes, partners, backbone, plan, checkpoints)
        self.processes.lead(lambda: shutil.rmtree(checkpoints, ignore_errors=True))
        return _result(self.target, figures, time.monotonic() - began)

    def _open(
        self, archives: list[Path], captures: list[Path]
    ) -> tuple[list[SceneTargets], Backbone]:
        """Check everything that can be checked before anything is written."""
        if not archives:
            raise SettingsError("no scenes to learn from", where=self.place.root,
                                hint="name .f3d archives")  # fmt: skip
        check_room(self.settings)
        precision(self.settings, self.processes.device)
        storage.require_writable(self.target)
        storage.require_writable(self.place.cache_dir)
        scenes = [find_targets(path, self.place, captures) for path in archives]
        for scene in scenes:
            check_targets(self.settings, scene.source.patch_size)
            if self._paired:
                check_depths(scene, self.settings.pairs.depth)
        backbone = load_base(scenes, archives, self.settings, self.place, self.processes.device)
        thaw(copy.deepcopy(backbone), self.settings.train, self.seed)  # or say now that it cannot
        return scenes, backbone

    def _check_needs(self, scenes: list[SceneTargets], backbone: Backbone) -> None:
        sizes = finetune_sizes(scenes, self.settings, backbone, paired=self._paired)
        needs, device = sizes.least(), self.processes.device
        if device.type == "cuda":
            needs = Needs(0, needs.memory, needs.disk)
        require(
            needs, where=self.target.name, disk=self.place.root, less=LESS,
            gpu=str(device) if device.type == "cuda" else "",
        )  # fmt: skip

    def _train(
        self,
        scenes: list[SceneTargets],
        partners: _Partners | None,
        backbone: Backbone,
        plan: str,
        checkpoints: Path,
    ) -> dict[str, Any]:
        """Train and write the model; returns its figures."""
        base = copy.deepcopy(backbone)
        trainer = Trainer(
            backbone,
            base,
            scenes,
            partners,
            self.settings,
            self.processes,
            self.splats,
            self.seed,
        )
        trainer.run(checkpoints, self.on_event)
        tuned = trainer.exported()
        heldout = measure_heldout(base, tuned, scenes, self.settings, self.processes, self.on_event)
        figures = _figures(trainer, heldout)
        # What the model is, and nothing of when or where it was made: same inputs, same bytes.
        facts = {
            "fit3d": __version__,
            "plan": plan,
            "seed": self.seed,
            "base": {"name": scenes[0].source.backbone, "weights_sha256": weights_of(scenes)},
            "scenes": [{"name": s.name, "digest": s.digest} for s in scenes],
            "settings": self.settings.model_dump(
                mode="json", exclude_defaults=True, exclude=_OFF_THE_RECORD
            ),
            "figures": figures,
        }
        card = model_card(self.settings, tuned, facts)
        history = history_lines(trainer, plan)
        self.processes.lead(
            lambda: write_model(self.target, tuned, card=card, facts=facts, history=history)
        )
        return figures

    def _prepare(
        self, scenes: list[SceneTargets], base: Backbone
    ) -> tuple[list[SceneTargets], _Partners | None]:
        """Make the targets and find the partners; the others then read what the first made."""
        paired = self._paired

        def prepare() -> tuple[list[SceneTargets], _Partners | None]:
            made = [
                prepare_targets(
                    scene, self.settings, base, self.place, self.splats,
                    self.on_event, depths=paired,
                )
                for scene in scenes
            ]  # fmt: skip
            if not paired:
                return made, None
            partners = [find_partners(s, self.settings.pairs, self.on_event) for s in made]
            if not any(found for views in partners for found in views):
                raise SettingsError(
                    "no two views of any scene overlap enough",
                    where="finetune.pairs.min_overlap",
                    hint="lower it, raise finetune.pairs.max_angle, or use scenes with more views",
                )
            return made, partners

        if self.processes.size > 1:
            self.processes.lead(prepare)
        return self.processes.together(prepare)


def _figures(trainer: Trainer, heldout: HeldOut | None) -> dict[str, Any]:
    """What the training came to, plain JSON types."""
    history = trainer.state.history
    ends = max(1, round(_ENDS * len(history)))

    def mean(rows: list[list[float]], column: int) -> float:
        return sum(row[column] for row in rows) / len(rows)

    first, last = history[:ends], history[-ends:]
    return {
        "steps": len(history),
        "loss_first": mean(first, 0),
        "loss_last": mean(last, 0),
        "terms": {
            name: {"weight": weight, "first": mean(first, i), "last": mean(last, i)}
            for i, (name, weight) in enumerate(trainer.weights.items(), start=1)
        },
        "heldout_before": heldout.base if heldout else None,
        "heldout_after": heldout.tuned if heldout else None,
        "drift": dataclasses.asdict(heldout.drift) if heldout else None,
    }


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
        whole = stored_digest(target) == provenance.get("weights_sha256")
    except Fit3dError:
        return None
    figures = provenance.get("figures")
    whole = whole and (target / "config.json").is_file() and provenance.get("plan") == plan
    return figures if whole and isinstance(figures, dict) else None


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
