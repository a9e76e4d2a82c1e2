"""From a name to a ``Backbone``: registered, any timm ViT, or a tuned model's directory."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fit3d_cli.backbones.arguments import read_model_json, require_plain_arguments
from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.hub import hub_file
from fit3d_cli.backbones.model import Backbone, require_plain_vit
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.backbones.weights import fit_weights, read_adapter, read_weights
from fit3d_cli.errors import UnknownNameError, WeightsError

DATA = Path(__file__).parent / "data"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
ADAPTER_NAME = "adapter.safetensors"
ADAPTER_KEY = "fit3d_adapter"  # in config.json; timm ignores it


@dataclass(frozen=True)
class _Recipe:
    """How timm builds a backbone, which local file fills it (None: the hub), and its adapter."""

    name: str
    timm_id: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    adapter: Mapping[str, Any] | None = None


def load_backbone(
    name: str,
    *,
    weights: str = "",
    device: str | torch.device = "cpu",
    pretrained: bool = True,
) -> Backbone:
    """Load a backbone, in evaluation mode.

    Args:
        name: Registered name, timm model name (plain ViTs only), or a directory with
            ``config.json`` and ``model.safetensors`` as ``write_model_directory`` makes; its
            adapter is loaded too, unless other ``weights`` are named.
        weights: A safetensors file instead of the default weights.
        device: Where the weights go.
        pretrained: False leaves timm's random initialisation, drawn from torch's global
            generator, and reads no weights at all.

    Raises:
        UnknownNameError: No such backbone, or not a plain ViT.
        WeightsError: The weights do not fit, or there are none.
        OfflineError: The weights would have to be downloaded and the hub does not answer.
    """
    recipe = _resolve(name)
    arguments = {**recipe.model_args, "num_classes": 0, "dynamic_img_size": True}
    overlay = dict(recipe.pretrained_cfg)
    _require_vit(recipe, name, arguments)
    file = Path(weights).expanduser() if weights else recipe.file
    source, matched, ignored = "random", 0, 0
    if not pretrained:
        model = _create(recipe.timm_id, overlay, arguments)
    elif file is not None:
        tensors = read_weights(file)
        model = _create(recipe.timm_id, overlay, arguments)
        fit = fit_weights(model, tensors, where=str(file))
        source, matched, ignored = str(file), fit.matched, fit.ignored
    else:
        overlay["file"] = str(_hub_file(recipe.timm_id, name))
        try:
            model = _create(recipe.timm_id, overlay, arguments, pretrained=True)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise WeightsError(
                f"the hub's weights do not fit ({str(error).splitlines()[0]})",
                where=name,
                hint=f"delete {overlay['file']} and try again, or use --weights FILE",
            ) from error
        source, matched = "hub", len(model.state_dict())
    backbone = Backbone(
        recipe.name, recipe.timm_id, model,
        model_args=recipe.model_args, source=source, matched=matched, ignored=ignored,
    )  # fmt: skip
    if recipe.adapter is not None and file is not None and pretrained and not weights:
        backbone.adapter = read_adapter(file.parent / ADAPTER_NAME, recipe.adapter, backbone.dim)
    return backbone.eval().to(device)


def _resolve(name: str) -> _Recipe:
    if name in BACKBONES:
        spec = BACKBONES.get(name)
        file = DATA / spec.file if spec.file else None
        return _Recipe(spec.name, spec.timm_id, spec.model_args, spec.pretrained_cfg, file)
    directory = Path(name).expanduser()
    if directory.is_dir():
        return _from_directory(directory)
    if "/" in name or "\\" in name:
        raise UnknownNameError(
            "no such model directory", where=name, hint="check the path, or name a backbone"
        )
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture) and (not tag or name in timm.list_pretrained()):
        return _Recipe(name, name if tag else _with_default_tag(architecture))
    known = [*BACKBONES.names(), *timm.list_models("*vit*"), *timm.list_models("*deit*")]
    known += timm.list_models("*vit*", pretrained=True) if tag else []
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    raise UnknownNameError(
        f"unknown backbone {name!r}",
        where="--backbone",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else "choose a preset such as dinov2-small or clip-base, a timm ViT, or a model directory",
    )


def _with_default_tag(architecture: str) -> str:
    import_timm()
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(architecture)
    tag = config.tag if config is not None else ""
    return f"{architecture}.{tag}" if tag else architecture


def _from_directory(directory: Path) -> _Recipe:
    path = directory / CONFIG_NAME
    hint = "name a directory that fit3d finetune or fit3d export has finished"
    if not path.is_file():
        raise WeightsError(f"holds no {CONFIG_NAME}: not a finished model", where=directory,
                           hint=hint)  # fmt: skip
    try:
        config = read_model_json(path)
        overlay = dict(config["pretrained_cfg"])
        architecture = str(config["architecture"])
        arguments = {str(k): v for k, v in dict(config.get("model_args") or {}).items()}
        adapter = dict(config[ADAPTER_KEY]) if ADAPTER_KEY in config else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("not a timm model config", where=path, hint=hint) from error
    require_plain_arguments(arguments, path)
    if not import_timm().is_model(architecture):
        raise WeightsError(f"timm has no architecture {architecture!r}", where=path,
                           hint="install a newer timm")  # fmt: skip
    for key in ("num_classes", "dynamic_img_size"):
        arguments.pop(key, None)
    allowed = ("mean", "std", "license", "tag", "classifier", "interpolation", "input_size",
               "fixed_input_size")  # fmt: skip
    kept = {key: overlay[key] for key in allowed if key in overlay}
    tag = str(overlay.get("tag") or "")
    return _Recipe(
        directory.resolve().name,
        f"{architecture}.{tag}" if tag else architecture,
        arguments,
        kept,
        directory / WEIGHTS_NAME,
        adapter,
    )


def _require_vit(recipe: _Recipe, name: str, arguments: Mapping[str, Any]) -> None:
    """Build on the meta device, which costs no memory, and look at the shapes."""
    try:
        with torch.device("meta"):
            model = _create(recipe.timm_id, recipe.pretrained_cfg, arguments)
    except TypeError:
        model = nn.Identity()  # timm's other families know no dynamic_img_size
    except (AssertionError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise WeightsError(
            f"timm cannot build {recipe.timm_id} of this shape ({told})", where=name,
            hint="name a directory that fit3d finetune or fit3d export has finished",
        ) from error  # fmt: skip
    require_plain_vit(model, name)


def _create(
    timm_id: str,
    overlay: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    pretrained: bool = False,
) -> nn.Module:
    architecture, _, tag = timm_id.partition(".")
    timm = import_timm()
    known = not tag or timm_id in timm.list_pretrained(architecture + ".*")
    model = timm.create_model(
        timm_id if known else architecture,
        pretrained=pretrained,
        pretrained_cfg_overlay=dict(overlay) or None,
        **arguments,
    )
    return cast(nn.Module, model)


def _hub_file(timm_id: str, name: str) -> Path:
    """The weights' safetensors file in the hub's cache, verified, downloaded if need be."""
    place = hub_place(timm_id)
    if place is None:
        raise WeightsError("timm has no weights for it", where=name, hint="use --weights FILE")
    return hub_file(*place, name)


def hub_place(timm_id: str) -> tuple[str, str] | None:
    """Repository and file of the weights on the hub, or None."""
    import_timm()
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(timm_id)
    if config is None or not config.hf_hub_id:
        return None
    file = str(config.hf_hub_filename or WEIGHTS_NAME)
    if not file.endswith(".safetensors"):
        file = file.rsplit(".", 1)[0] + ".safetensors"
    return str(config.hf_hub_id), file
