"""A model directory that timm loads offline: ``create_model("local-dir:DIR", pretrained=True)``.

``config.json`` is written last and removed first, so a directory without it is unfinished.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fit3d_cli.backbones.adapters import Adapter
from fit3d_cli.backbones.arguments import read_model_json
from fit3d_cli.backbones.load import ADAPTER_KEY, ADAPTER_NAME, CONFIG_NAME, WEIGHTS_NAME
from fit3d_cli.backbones.lora import has_low_rank
from fit3d_cli.backbones.model import Backbone, state_digest
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.errors import StorageError, WeightsError
from fit3d_cli.storage import write_json, write_text
from fit3d_cli.tensorfile import write_tensors

PROVENANCE_NAME = "fit3d.json"
CARD_NAME = "README.md"
HUBCONF_NAME = "hubconf.py"
SCHEMA = 1
# What describes preprocessing and licence; where weights once came from is left out, so that
# nobody is led to fetch others.
_KEPT = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean",
         "std", "license", "first_conv", "classifier")  # fmt: skip
# Licences that the Hugging Face hub knows by these names; those of timm's ViTs.
_HUB_LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
                 "cc-by-nc-sa-4.0", "openrail", "gemma", "other", "unknown"}  # fmt: skip

# What begins a tag, a link, a picture, a table cell, or ends a code span.
_MARKS = str.maketrans({"<": "&lt;", "[": "(", "]": ")", "|": "/", "`": "'"})


def write_model_directory(
    directory: Path,
    backbone: Backbone,
    *,
    card: str,
    extra: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
) -> None:
    """Write ``README.md``, ``fit3d.json``, ``model.safetensors`` and ``config.json``.

    An adapter goes into ``adapter.safetensors``, which ``load_backbone`` reads and timm does not.

    Args:
        directory: Made if absent; a model in it is replaced.
        backbone: Its weights are stored as they are in memory; low-rank updates are merged.
        card: Model card, Markdown; a front matter with the licence is put before it.
        extra: Provenance for ``fit3d.json``, plain JSON types.
        files: Further text files by name, such as ``hubconf.py``.

    Raises:
        StorageError: The disk refused; without ``config.json`` the directory is unfinished.
        ValueError: The backbone has low-rank updates that were not merged.
    """
    if has_low_rank(backbone.model):
        raise ValueError("merge the backbone before it is written")
    config = model_config(backbone)
    provenance = {
        "schema": SCHEMA,
        "backbone": backbone.name,
        "timm_id": backbone.timm_id,
        "weights_sha256": backbone.weights_sha256,
        "licence": backbone.licence,
        **({"adapter": backbone.adapter.describe()} if backbone.adapter else {}),
        **extra,
    }
    for name in (CONFIG_NAME, ADAPTER_NAME):
        try:
            (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"an old {name} cannot be removed ({error.strerror})",
                where=directory,
                hint="choose another directory",
            ) from error
    write_text(directory / CARD_NAME, front_matter(backbone) + card)
    for name, text in (files or {}).items():
        write_text(directory / name, text)
    write_json(directory / PROVENANCE_NAME, provenance)
    state = {key: value.detach() for key, value in backbone.model.state_dict().items()}
    write_tensors(directory / WEIGHTS_NAME, state, {"format": "pt"})
    if backbone.adapter is not None:
        tensors = {k: v.detach() for k, v in backbone.adapter.state_dict().items()}
        write_tensors(directory / ADAPTER_NAME, tensors, {"format": "pt"})
    write_json(directory / CONFIG_NAME, config)


def write_weights(path: Path, backbone: Backbone) -> None:
    """Write a state dict under timm's names as one ``.safetensors`` file.

    Raises:
        WeightsError: The backbone has an adapter, which timm has no place for.
        StorageError: The disk refused.
    """
    if backbone.adapter is not None:
        raise WeightsError(
            f"its {backbone.adapter_kind} adapter has no place among timm's weights",
            where=backbone.name,
            hint="use the model directory as it is, or tune with train.part = lora or full",
        )
    state = {key: value.detach() for key, value in backbone.model.state_dict().items()}
    write_tensors(path, state, {"format": "pt"})


def model_config(backbone: Backbone) -> dict[str, Any]:
    """The ``config.json`` that timm's hub and local-dir loaders read."""
    model = cast(Any, backbone.model)
    architecture, _, _ = backbone.timm_id.partition(".")
    pretrained = {key: model.pretrained_cfg.get(key) for key in _KEPT}
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": backbone.dim,
        # With dynamic sizes timm forgets the size that the position embedding was made for.
        "model_args": {
            **backbone.model_args,
            "img_size": [side * backbone.patch_size for side in backbone.grid_size],
            "num_classes": 0,
            "dynamic_img_size": True,
        },
        "pretrained_cfg": {
            **{key: value for key, value in pretrained.items() if value is not None},
            "tag": "fit3d",
            "custom_load": False,
            "num_classes": 0,
        },
        **({ADAPTER_KEY: _describe_adapter(backbone.adapter)} if backbone.adapter else {}),
    }


def _describe_adapter(adapter: Adapter) -> dict[str, Any]:
    return {**adapter.describe(), "sha256": state_digest(adapter.state_dict())}


def stored_digest(directory: Path) -> str:
    """``weights_sha256`` of what a model directory holds, read from its files.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    state = read_weights(directory / WEIGHTS_NAME)
    if (directory / ADAPTER_NAME).exists():
        adapter = read_weights(directory / ADAPTER_NAME)
        state |= {f"adapter.{key}": value for key, value in adapter.items()}
    return state_digest(state)


def read_provenance(directory: Path) -> dict[str, Any]:
    """``fit3d.json`` of a finished model directory.

    Raises:
        WeightsError: Absent or not ours.
    """
    path = directory / PROVENANCE_NAME
    hint = "name a directory that fit3d finetune or fit3d export has finished"
    try:
        data = read_model_json(path)
        if data["schema"] != SCHEMA:
            raise WeightsError(f"schema {data['schema']}, this version reads {SCHEMA}", where=path,
                               hint=hint)  # fmt: skip
        return dict(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"no readable {PROVENANCE_NAME}", where=directory, hint=hint) from error


def front_matter(backbone: Backbone, *, library: str = "timm") -> str:
    """The YAML with which a model card begins, as the Hugging Face hub reads it.

    Args:
        backbone: Whose licence and base are told.
        library: What loads the model.
    """
    licence = backbone.licence.lower()
    lines = ["---", f"library_name: {library}"]
    if licence in _HUB_LICENCES:
        lines.append(f"license: {licence}")
    else:
        # The hub knows a closed list. A name from a file is not trusted to be plain YAML.
        lines += ["license: other", f"license_name: {json.dumps(backbone.licence)}"]
    # Weights from a file may be anybody's, whatever architecture they fit.
    base = hub_name(backbone.timm_id) if backbone.source == "hub" else ""
    if base:
        lines += [f"base_model: {base}", "base_model_relation: finetune"]
    lines += ["pipeline_tag: image-feature-extraction", "tags:", "- image-feature-extraction",
              "- fit3d", "---", ""]  # fmt: skip
    return "\n".join(lines)


def hub_name(timm_id: str) -> str:
    """Repository of timm's pretrained weights on the Hugging Face hub, or an empty string."""
    timm = import_timm()
    architecture, _, tag = timm_id.partition(".")
    if not tag or timm_id not in timm.list_pretrained(f"{architecture}.*"):
        return ""
    config = importlib.import_module("timm.models").get_pretrained_cfg(timm_id)
    repository = str(getattr(config, "hf_hub_id", None) or "")
    return f"{repository}{timm_id}" if repository.endswith("/") else repository


def cell(text: str) -> str:
    """Text from data for a card: nothing in it is Markdown or HTML, and it is one line."""
    kept = "".join(c if c.isprintable() else " " for c in text.translate(_MARKS))
    return " ".join(kept.split())
