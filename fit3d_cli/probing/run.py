"""``run_probe``: from what the user names to a report in the workspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.base import DATASETS
from fit3d_cli.device import resolve_device
from fit3d_cli.errors import SettingsError
from fit3d_cli.probing.assembly import PARTS
from fit3d_cli.probing.drift import measure_drift
from fit3d_cli.probing.page import write_page
from fit3d_cli.probing.tasks.base import SHARED, TASKS, Question
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.report import CAUTION, Report
from fit3d_cli.settings import LiftBackboneSettings, ProbeSettings
from fit3d_cli.storage import require_writable, write_json
from fit3d_cli.workspace import Workspace

# Places of this machine, and what changes no result.
_OFF_THE_RECORD: dict[str, Any] = {
    "data": True, "tuned": True, "memory": True, "backbone": {"weights", "batch"},
}  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """A finished probe.

    Attributes:
        report: What was measured.
        path: Where the report lies.
        page: The same for people, one HTML file.
    """

    report: Report
    path: Path
    page: Path


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
    """Probe the models that the settings name; write ``<workspace>/reports/<task>-<name>.json``.

    The page for people, ``.html``, is written beside it.

    Args:
        task: Name of a registered task.
        dataset: A registered dataset; for tasks that take captures also the directory of one, or
            the name of one that the workspace remembers.
        settings: Rows, models, sizes and the head's schedule.
        workspace: Where tuned models, caches and reports lie.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides every random draw.
        on_event: Told about progress.

    Raises:
        Fit3dError: As the task, ``load_backbone`` and ``measure_drift``; before anything runs
            also if the report could not be written.
    """
    chosen = TASKS.get(task, where="TASK")
    if not settings.models:
        raise SettingsError("no row to measure", where="--models", hint="name at least one model")
    if len(set(settings.models)) < len(settings.models):
        raise SettingsError("a row is named twice", where=f"--models {','.join(settings.models)}",
                            hint="name each row once")  # fmt: skip
    place = Workspace(workspace)
    require_writable(place.reports_dir)
    place.sweep()
    target = resolve_device(device)
    remembered = place.captures()
    if dataset not in DATASETS and not Path(dataset).is_dir() and dataset in remembered:
        dataset = str(remembered[dataset])
    root = Path(settings.data) if settings.data else place.root / "datasets" / dataset
    prepared = chosen.prepare(
        Question(
            task, dataset, root, settings, place, target,
            seed=seed, cache_dir=place.cache_dir / "tokens", on_event=on_event,
        )
    )  # fmt: skip
    models, notes, scenes = _models(settings, place, target)
    report = prepared.measure(models)
    drift = {}
    if len(models) == 2:
        drift = measure_drift(
            models["base"], models["tuned"], prepared.pictures, settings,
            device=target, seed=seed, on_event=on_event,
        )  # fmt: skip
    if dataset not in DATASETS:
        same = {name for name, path in remembered.items() if _is_same(path, Path(dataset))}
        notes += [
            f"{CAUTION}tuned was trained on scene {name}: its figures here are not those of a new"
            " scene"
            for name in sorted((same | {report.dataset}) & scenes)
        ]
    changed = settings.model_dump(mode="json", exclude_defaults=True, exclude=_OFF_THE_RECORD)
    idle = sorted(changed.keys() - SHARED - chosen.uses)
    if idle:
        notes.append(f"without effect on {task}: {', '.join(f'probe.{key}' for key in idle)}")
    changed = {key: value for key, value in changed.items() if key not in idle}
    report = replace(
        report, notes=(*notes, *report.notes), settings=changed, drift=drift, seed=seed
    )
    path = place.reports_dir / f"{task}-{report.dataset}.json"
    write_json(path, report.to_dict())
    on_event(Progress("page", 0, 1))
    page = write_page(path.with_suffix(".html"), report, settings, target, prepared.show)
    on_event(Progress("page", 1, 1))
    return Probed(report, path, page)


def _models(
    settings: ProbeSettings, place: Workspace, device: torch.device
) -> tuple[dict[str, Backbone], list[str], set[str]]:
    """The models that the rows need, what the report says of them, and the tuned one's scenes."""
    needed = {part for row in settings.models for part in PARTS[row]}
    models: dict[str, Backbone] = {}
    notes = []
    origin: dict[str, Any] = {}
    scenes: set[str] = set()
    if "tuned" in needed:
        directory = _tuned_directory(settings.tuned, place)
        provenance = read_provenance(directory)
        origin, scenes = _origin(provenance), _scenes(provenance)
        models["tuned"] = load_backbone(str(directory), device=device)
        notes.append(_describe("tuned", models["tuned"]))
    if "base" in needed:
        models["base"] = _load_base(settings, place, origin, device)
        notes.insert(0, _describe("base", models["base"]))
        expected = origin.get("weights_sha256")
        if expected and expected != models["base"].weights_sha256:
            notes.append(
                f"{CAUTION}the tuned model started from other weights than the base has here"
            )
    return models, notes, scenes


def _tuned_directory(name: str, place: Workspace) -> Path:
    if name:
        inside = place.models_dir / name
        return inside if inside.is_dir() else Path(name)
    try:
        return place.newest_model()
    except SettingsError as error:
        raise SettingsError(
            error.what,
            where=error.where,
            hint="run fit3d finetune, name a model with --tuned, or use --models base",
        ) from error


def _origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """Name and digest of what a tuned model started from, as ``finetune`` records them."""
    base = provenance.get("base")
    return base if isinstance(base, dict) else {"name": provenance.get("backbone")}


def _is_same(first: Path, second: Path) -> bool:
    return second.is_dir() and first.resolve() == second.resolve()


def _scenes(provenance: dict[str, Any]) -> set[str]:
    """Names of the scenes that a model was trained on, as ``finetune`` records them."""
    scenes = provenance.get("scenes")
    entries = scenes if isinstance(scenes, list) else []
    return {str(entry.get("name")) for entry in entries if isinstance(entry, dict)}


def _load_base(
    settings: ProbeSettings, place: Workspace, origin: dict[str, Any], device: torch.device
) -> Backbone:
    """The base: as named, else the tuned model's, else the scenes', else the default of lift."""
    name, weights = settings.backbone.name, settings.backbone.weights
    if not name:
        digest = str(origin.get("weights_sha256") or "")
        name = str(origin.get("name") or "")
        scenes = place.scene_paths()
        if not name and scenes:
            source = read_archive(scenes[0], features=False, sh=False).source
            name, digest = source.backbone, source.weights_sha256
        if digest and not weights:
            name, weights = place.backbone_of(digest, name)
    name = name or LiftBackboneSettings().name
    inside = place.models_dir / name
    if (inside / "config.json").is_file():
        name = str(inside)
    return load_backbone(name, weights=weights, device=device)


def _describe(row: str, model: Backbone) -> str:
    return f"{row}: {model.name}, weights sha256 {model.weights_sha256[:12]}"
