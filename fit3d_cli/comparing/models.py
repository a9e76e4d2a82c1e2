"""Which two models are put beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fit3d_cli.archive import read_manifest
from fit3d_cli.backbones.export import read_provenance
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.comparing.history import History, read_history
from fit3d_cli.errors import SettingsError
from fit3d_cli.settings import BackboneSettings, LiftBackboneSettings
from fit3d_cli.workspace import Workspace


@dataclass(frozen=True)
class Pair:
    """Two loaded models.

    Attributes:
        base: The first one.
        tuned: The second one.
        own: Whether the second is the workspace's newest tuned model and the first its base.
        remarks: What a reader must know.
        settings: By name of a tuned model, its ``finetune`` settings that differ from the defaults.
        history: Curves of the second model's training, where they were kept.
    """

    base: Backbone
    tuned: Backbone
    own: bool
    remarks: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: History | None = None


def load_pair(
    workspace: Workspace, backbone: BackboneSettings, *, tuned: str = "", device: str = "cpu"
) -> Pair:
    """A tuned model and the base that it was tuned from.

    Args:
        workspace: Where models and remembered weight files are looked for.
        backbone: The base; an empty name takes the one in the tuned model's own record.
        tuned: Name or directory of the tuned model; empty takes the newest.
        device: ``cpu`` or ``cuda``.

    Raises:
        SettingsError: There is no tuned model.
        WeightsError: A model directory is damaged, or weights do not fit.
        UnknownNameError: No such backbone.
        OfflineError: Weights would have to be downloaded.
    """
    directory = model_name(tuned, workspace) if tuned else str(workspace.newest_model())
    origin = _origin(Path(directory))
    base = load_base(workspace, backbone, origin, device=device)
    second = load_backbone(directory, device=device)
    remarks: tuple[str, ...] = ()
    expected = origin.get("weights_sha256")
    if expected and expected != base.weights_sha256:
        remarks = (
            f"The weights of {base.name} are not those that {second.name} started from: name "
            "their file with --weights.",
        )
    own = _is_newest(directory, workspace)
    return Pair(base, second, own, remarks, *_training(Path(directory)))


def load_two(
    first: str, second: str, workspace: Workspace, *, weights: str = "", device: str = "cpu"
) -> Pair:
    """Any two models by name or directory.

    Args:
        first: The one that is shown as the base.
        second: The one that is shown as tuned.
        workspace: Where models are looked for by name.
        weights: File for the first, instead of its default weights.
        device: ``cpu`` or ``cuda``.

    Raises:
        Fit3dError: As ``load_pair``.
    """
    named = BackboneSettings(name=first, weights=weights)
    base = load_base(workspace, named, {}, device=device)
    directory = model_name(second, workspace)
    tuned = load_backbone(directory, device=device)
    before, _ = _training(Path(model_name(first, workspace)))
    after, history = _training(Path(directory))
    return Pair(base, tuned, own=False, settings={**before, **after}, history=history)


def load_base(
    workspace: Workspace, backbone: BackboneSettings, origin: Mapping[str, Any], *, device: str
) -> Backbone:
    """The backbone as named, else that of ``origin``, else the scenes', else ``lift``'s default.

    Args:
        workspace: Where models and remembered weight files are looked for.
        backbone: What the user named, if anything.
        origin: ``name`` and ``weights_sha256`` of what a tuned model started from, if known.
        device: ``cpu`` or ``cuda``.

    Raises:
        Fit3dError: As ``load_pair``.
    """
    name, weights = backbone.name, backbone.weights
    if not name:
        name, digest = str(origin.get("name") or ""), str(origin.get("weights_sha256") or "")
        scenes = workspace.scene_paths()
        if not name and scenes:
            source = read_manifest(scenes[0]).source
            name, digest = source.backbone, source.weights_sha256
        if digest and not weights:
            name, weights = workspace.backbone_of(digest, name)
    name = name or LiftBackboneSettings().name
    return load_backbone(model_name(name, workspace), weights=weights, device=device)


def _origin(directory: Path) -> dict[str, Any]:
    """What a tuned model started from, as ``finetune`` records it."""
    if not directory.is_dir():
        return {}
    record = read_provenance(directory)
    base = record.get("base")
    return base if isinstance(base, dict) else {"name": record.get("backbone")}


def _training(directory: Path) -> tuple[dict[str, dict[str, Any]], History | None]:
    """Settings and history of a model that ``finetune`` made; nothing of any other."""
    if not directory.is_dir():
        return {}, None
    record = read_provenance(directory)
    settings = record.get("settings")
    if not isinstance(settings, dict) or "plan" not in record:
        return {}, None
    return {directory.name: settings}, read_history(directory, str(record["plan"]))


def model_name(name: str, workspace: Workspace) -> str:
    """``name``, or the directory of the workspace's model that is called so."""
    inside = workspace.models_dir / name
    return str(inside) if (inside / "config.json").is_file() else name


def _is_newest(directory: str, workspace: Workspace) -> bool:
    try:
        return Path(directory).resolve() == workspace.newest_model().resolve()
    except SettingsError:
        return False
