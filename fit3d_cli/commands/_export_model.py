"""``fit3d export`` of models: directories, foreign checkpoints and stock backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit3d_cli.errors import SettingsError

if TYPE_CHECKING:
    from fit3d_cli.backbones.model import Backbone
    from fit3d_cli.commands._options import Run

# What a model may become; "timm" is a model directory.
MODEL_FORMATS = ("safetensors", "timm", "hub", "onnx", "transformers")
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


@dataclass(frozen=True)
class ModelOptions:
    """What was asked for besides source, format and target.

    Attributes:
        interpolate: Write ``base + a (tuned - base)``.
        backbone: Architecture of a checkpoint, or base of an interpolation.
        weights: Weights of that backbone.
        width: Of the pictures, for ``onnx`` and ``transformers``; 0 = as the positions are stored.
        height: Likewise.
    """

    interpolate: float | None = None
    backbone: str = ""
    weights: str = ""
    width: int = 0
    height: int = 0


def find_model(run: Run, source: Path) -> Path | None:
    """The model directory or checkpoint that ``source`` names, or None if it is neither.

    Args:
        run: Its workspace's models are found by their names.
        source: As the user gave it; a registered backbone's name is returned as it is.
    """
    if source.is_dir() and source.suffix != ".f3d":
        # A folder of photos is none; a model that was cut short still is, and says so later.
        marks = ("config.json", "fit3d.json", "model.safetensors")
        return source if any((source / name).is_file() for name in marks) else None
    if source.is_file():
        return source if source.suffix.lower() in CHECKPOINTS else None
    inside = run.workspace / "models" / source
    if (inside / "config.json").is_file():
        return inside
    from fit3d_cli.backbones.base import BACKBONES

    return source if not source.exists() and str(source) in BACKBONES else None


def default_format(source: Path, options: ModelOptions) -> str:
    """What a model becomes if ``--to`` is not given."""
    return "safetensors" if source.is_dir() and options.interpolate is None else "timm"


def default_target(source: Path, to: str, options: ModelOptions) -> Path:
    """What is written if ``--out`` is not given."""
    name = source.resolve().name if source.is_dir() else source.stem
    if options.interpolate is not None:
        return source.parent / f"{name}-{options.interpolate:g}"
    if to == "hub" and source.is_dir():
        return source
    return source.parent / {
        "safetensors": f"{name}.safetensors", "timm": name, "hub": name, "onnx": f"{name}.onnx",
        "transformers": f"{name}-transformers",
    }[to]  # fmt: skip


def check_model(source: Path, to: str, target: Path, options: ModelOptions) -> None:
    """Refuse what cannot be, before anything is read.

    Raises:
        SettingsError: An option that says nothing here, or a target that is something else.
    """
    directory = source.is_dir()
    if to not in MODEL_FORMATS:
        raise SettingsError(
            f"a model cannot become {to}", where="--to", hint=f"use {', '.join(MODEL_FORMATS)}"
        )
    given = {"--interpolate": options.interpolate is not None, "--backbone": bool(options.backbone),
             "--weights": bool(options.weights), "--width": bool(options.width),
             "--height": bool(options.height)}  # fmt: skip
    if options.interpolate is not None:
        idle = ["--width", "--height"]
        if not directory:
            raise SettingsError(
                "only a tuned model directory has a base", where="--interpolate",
                hint="name a model directory",
            )  # fmt: skip
        if to != "timm":
            raise SettingsError(
                "means nothing for an interpolated model", where="--to", hint="leave it out"
            )
    else:
        idle = [] if to in ("onnx", "transformers") else ["--width", "--height"]
        if directory:
            idle += ["--backbone", "--weights"]
        elif not source.exists():
            idle += ["--backbone"]
    for option in idle:
        if given[option]:
            raise SettingsError(f"means nothing for {to} of {source}", where=option,
                                hint="leave it out")  # fmt: skip
    if target.exists() and target.resolve() == source.resolve() and to != "hub":
        raise SettingsError("is what is exported", where=target, hint="name another with --out")
    _check_replaced(to, target)


def export_model(
    run: Run, source: Path, to: str, target: Path, options: ModelOptions
) -> dict[str, Any]:
    """Write a model in another form.

    Args:
        run: Of the command.
        source: From ``find_model``.
        to: One of ``MODEL_FORMATS``.
        target: File or directory; checked with ``check_model``, and free or to be replaced.
        options: See ``ModelOptions``.

    Returns:
        Facts about what was written, ``path`` first.

    Raises:
        Fit3dError: The source is damaged or does not fit, the format cannot hold it, an extra
            is missing, or the disk refused.
    """
    if options.interpolate is not None:
        return _interpolated(run, source, target, options)
    if to == "hub" and target == source:
        return _hub(run, source)
    writers: dict[str, Callable[[Backbone], dict[str, Any]]] = {
        "onnx": lambda made: _onnx(made, target, options),
        "transformers": lambda made: _transformers(made, target, options),
        "safetensors": lambda made: _weights(made, target),
    }
    if to in writers:
        return writers[to](_load(source, target, options)[0])
    return _directory(source, target, options)


def _check_replaced(to: str, target: Path) -> None:
    folder = to in ("timm", "hub", "transformers")
    if not target.exists():
        return
    if folder != target.is_dir():
        kind = "a file" if folder else "a directory"
        raise SettingsError(f"is {kind}", where=target, hint="name another with --out")
    if not folder or not any(target.iterdir()):
        return
    if to == "transformers":
        from fit3d_cli.handoff.transformers import is_ours

        ours = is_ours(target)
    else:
        ours = (target / "fit3d.json").is_file()
    if not ours:
        raise SettingsError("is no model directory", where=target, hint="name another with --out")


def _load(source: Path, target: Path, options: ModelOptions) -> tuple[Backbone, dict[str, Any]]:
    """The backbone of any source, and its provenance; its copy has room at ``target``."""
    from fit3d_cli.preflight import Needs, require

    found = _read(source, options)
    size = sum(t.numel() * t.element_size() for t in found[0].state().values())
    require(Needs(disk=size), where=source, disk=target, less="choose another --out")
    return found


def _read(source: Path, options: ModelOptions) -> tuple[Backbone, dict[str, Any]]:
    if source.is_dir():
        from fit3d_cli.backbones.export import read_provenance
        from fit3d_cli.backbones.origin import load_tuned

        return load_tuned(source), read_provenance(source)
    if source.exists():
        from fit3d_cli.handoff.checkpoints import convert_checkpoint

        made = convert_checkpoint(source, backbone=options.backbone, weights=options.weights)
        return made.backbone, {"base": dict(made.base), "converted": made.describe(source)}
    from fit3d_cli.backbones.load import load_backbone

    stock = load_backbone(str(source), weights=options.weights)
    digest = stock.weights_sha256
    return stock, {"base": {"name": stock.name, "weights_sha256": digest}}


def _directory(source: Path, target: Path, options: ModelOptions) -> dict[str, Any]:
    from fit3d_cli import __version__
    from fit3d_cli.backbones.export import HUBCONF_NAME, write_model_directory
    from fit3d_cli.handoff.card import converted_card
    from fit3d_cli.handoff.hub import CONCAT, GENERIC, entry_names, hubconf
    from fit3d_cli.storage import require_writable

    require_writable(target)
    backbone, provenance = _load(source, target, options)
    base = provenance.get("base")
    base_name = str(base.get("name") or "") if isinstance(base, dict) else ""
    made = provenance.get("converted") or {}
    card = converted_card(backbone, target.name, base_name, made)
    own = ("schema", "backbone", "timm_id", "weights_sha256", "licence", "adapter")
    extra = {"fit3d": __version__, **{k: v for k, v in provenance.items() if k not in own}}
    hub = hubconf(backbone.timm_id, base_name)
    write_model_directory(target, backbone, card=card, extra=extra, files={HUBCONF_NAME: hub})
    return {
        "path": target, "timm_id": backbone.timm_id, "base": base_name,
        **({"layout": made["layout"], "tensors": made["tensors"], "ignored": made["ignored"]}
           if made else {"tensors": backbone.matched}),
        "adapter": backbone.adapter_kind or None,
        "entries": ", ".join((*entry_names(backbone.timm_id, base_name), GENERIC, CONCAT)),
        "weights_sha256": backbone.weights_sha256,
    }  # fmt: skip


def _hub(run: Run, directory: Path) -> dict[str, Any]:
    """``hubconf.py`` and what was measured, into a directory that is there already."""
    from fit3d_cli.backbones.export import CARD_NAME, HUBCONF_NAME
    from fit3d_cli.backbones.origin import load_tuned
    from fit3d_cli.handoff.card import reports_of, with_measured
    from fit3d_cli.handoff.hub import write_hubconf
    from fit3d_cli.storage import write_text
    from fit3d_cli.workspace import Workspace

    digest = load_tuned(directory).weights_sha256
    entries = write_hubconf(directory)
    reports = reports_of(Workspace(run.workspace).reports_dir, digest)
    card = directory / CARD_NAME
    before = card.read_text("utf-8", "replace") if card.is_file() else ""
    write_text(card, with_measured(before, reports))
    return {"path": directory / HUBCONF_NAME, "entries": ", ".join(entries),
            "reports": len(reports), "weights_sha256": digest}  # fmt: skip


def _weights(backbone: Backbone, target: Path) -> dict[str, Any]:
    from fit3d_cli.backbones.export import write_weights

    write_weights(target, backbone)
    return {"path": target, "timm_id": backbone.timm_id, "tensors": backbone.matched,
            "weights_sha256": backbone.weights_sha256}  # fmt: skip


def _onnx(backbone: Backbone, target: Path, options: ModelOptions) -> dict[str, Any]:
    from fit3d_cli.handoff.onnx import write_onnx

    return write_onnx(target, backbone, width=options.width, height=options.height)


def _transformers(backbone: Backbone, target: Path, options: ModelOptions) -> dict[str, Any]:
    from fit3d_cli.handoff.transformers import write_transformers

    return write_transformers(target, backbone, width=options.width, height=options.height)


def _interpolated(run: Run, directory: Path, target: Path, options: ModelOptions) -> dict[str, Any]:
    from fit3d_cli.backbones.export import HUBCONF_NAME
    from fit3d_cli.backbones.origin import load_base, write_interpolated
    from fit3d_cli.device import resolve_device
    from fit3d_cli.handoff.hub import hubconf
    from fit3d_cli.storage import require_writable
    from fit3d_cli.workspace import Workspace

    assert options.interpolate is not None
    require_writable(target)
    device = resolve_device(run.device)
    base = load_base(
        directory, Workspace(run.workspace), name=options.backbone, weights=options.weights,
        device=device,
    )  # fmt: skip
    hub = {HUBCONF_NAME: hubconf(base.timm_id, base.name)}
    made = write_interpolated(
        target, base, directory, options.interpolate, device=device, files=hub
    )
    return {"path": target, "base": base.name, "alpha": options.interpolate,
            "weights_sha256": made.weights_sha256}  # fmt: skip
