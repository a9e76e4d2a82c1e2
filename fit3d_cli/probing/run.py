"""``fit3d probe``: finds dataset and models, measures, and keeps the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from fit3d_cli import storage
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.device import resolve_device
from fit3d_cli.probing.probe import probe
from fit3d_cli.probing.sources import open_dataset
from fit3d_cli.probing.split import PARTS
from fit3d_cli.progress import OnEvent
from fit3d_cli.report import Report
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.workspace import Workspace

DEFAULT_BASE = "dinov2-small"


@dataclass(frozen=True)
class Probed:
    """What ``run_probe`` made.

    Attributes:
        report: The scores.
        path: Where the report lies.
    """

    report: Report
    path: Path


def run_probe(
    task: str,
    dataset: str,
    settings: ProbeSettings,
    *,
    workspace: Path,
    device: str,
    seed: int,
    on_event: OnEvent,
) -> Probed:
    """Probe models and write ``<workspace>/reports/<task>-<dataset>.json``.

    Args:
        task: ``seg`` or ``depth``.
        dataset: Registered dataset, or for ``depth`` the directory of an RGB-D capture.
        settings: Models, data and the head's schedule.
        workspace: Where models and datasets are looked for, caches and the report go.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides every random draw.
        on_event: Told about progress.

    Raises:
        Fit3dError: Missing data or models, damaged files, full disk.
    """
    place = Workspace(workspace)
    root = Path(settings.data) if settings.data else place.root / "datasets" / dataset
    opened = open_dataset(task, dataset, root)
    storage.require_writable(place.reports_dir)
    needed = {part for row in settings.models for part in PARTS[row]}
    models = _models(needed, settings, place, resolve_device(device))
    report = probe(
        task,
        opened,
        models,
        settings,
        device=resolve_device(device),
        seed=seed,
        cache_dir=place.cache_dir / "tokens",
        on_step=on_event,
    )
    name = re.sub(r"[^\w.-]+", "-", report.dataset)
    path = place.reports_dir / f"{task}-{name}.json"
    storage.write_json(path, report.to_dict())
    return Probed(report, path)


def _models(
    needed: set[str], settings: ProbeSettings, place: Workspace, device: torch.device
) -> dict[str, Backbone]:
    """Load base and tuned; the tuned model's own record names the base unless the user does."""
    models: dict[str, Backbone] = {}
    name, weights = settings.backbone.name, settings.backbone.weights
    directory = Path(settings.tuned) if settings.tuned else None
    if directory is None and "tuned" in needed:
        directory = place.newest_model()
    if directory is not None and not name:
        base = read_provenance(directory).get("base")
        if isinstance(base, dict):
            name = str(base.get("name", ""))
            weights = weights or place.weights_of(str(base.get("weights_sha256", "")))
    if "base" in needed:
        models["base"] = load_backbone(name or DEFAULT_BASE, weights=weights, device=device)
    if "tuned" in needed:
        models["tuned"] = load_backbone(str(directory), device=device)
    return models
