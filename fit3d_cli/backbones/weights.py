"""Reading weight files strictly: every tensor accounted for, or nothing is loaded."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.adapters import Adapter, build_adapter
from fit3d_cli.backbones.model import state_digest
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.errors import ArchiveError, WeightsError
from fit3d_cli.tensorfile import MODEL_LIMITS, read_tensors

_PICKLES = {".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar", ".npz"}


@dataclass(frozen=True)
class WeightsFit:
    """How a weight file and an architecture fit.

    Attributes:
        matched: Tensors that were loaded.
        ignored: Classifier tensors of the file that the model has no place for.
    """

    matched: int
    ignored: int


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, as stored.

    Raises:
        WeightsError: Missing, a pickle, or damaged.
    """
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path.suffix} files can run code when they are opened and are not read",
            where=path,
            hint="convert it where you trust it: safetensors.torch.save_file(state_dict,"
            " 'weights.safetensors')",
        )
    if not path.is_file():
        raise WeightsError("no such file", where=path, hint="check the path given to --weights")
    try:
        return read_tensors(path, limits=MODEL_LIMITS)[0]
    except ArchiveError as error:
        raise WeightsError(
            f"not a readable safetensors file: {error.what}",
            where=path,
            hint="get the file again; it may be cut short",
        ) from error


def fit_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> WeightsFit:
    """Load ``tensors`` into a timm module: exact names, exact shapes, float32, finite.

    Classifier tensors are left out and counted. A ``pos_embed`` of another grid is resampled by
    timm's own function.

    Args:
        model: timm ViT without classifier.
        tensors: timm names to tensors of any float type.
        where: File named in the error.

    Raises:
        WeightsError: A tensor is missing, unexpected, of another shape or not finite. The
            message counts them, and the model is left as it was.
    """
    wanted = model.state_dict()
    classifiers = _classifier_names(model)
    ignored = {k for k in tensors if k not in wanted and k.split(".")[0] in classifiers}
    given = {key: value for key, value in tensors.items() if key not in ignored}
    if "pos_embed" in given and "pos_embed" in wanted:
        given["pos_embed"] = _resample_positions(model, given["pos_embed"], where)
    missing = sorted(wanted.keys() - given.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    shared = wanted.keys() & given.keys()
    misshapen = sorted(key for key in shared if given[key].shape != wanted[key].shape)
    matched = len(shared) - len(misshapen)
    if missing or unexpected or misshapen:
        shapes = [f"{k} {tuple(given[k].shape)} not {tuple(wanted[k].shape)}" for k in misshapen]
        parts = [
            f"{len(names)} {kind} ({names[0]}{', ...' if len(names) > 1 else ''})"
            for kind, names in (
                ("missing", missing), ("unexpected", unexpected), ("of another shape", shapes),
            )
            if names
        ]  # fmt: skip
        raise WeightsError(
            f"{matched} of {len(wanted)} tensors match, {', '.join(parts)}",
            where=where,
            hint=_naming_hint(given),
        )
    floats = {
        key: value.to(wanted[key].dtype) if value.is_floating_point() else value
        for key, value in given.items()
    }
    for key, value in floats.items():
        if value.dtype != wanted[key].dtype or not bool(torch.isfinite(value).all()):
            raise WeightsError(
                f"tensor {key} is not finite floating point",
                where=where,
                hint="get the weights again",
            )
    model.load_state_dict(floats, strict=True)
    return WeightsFit(matched, len(ignored))


def read_adapter(path: Path, description: Mapping[str, Any], dim: int) -> Adapter:
    """The adapter of a model directory, exactly as it was written.

    Args:
        path: Its tensors.
        description: ``Adapter.describe()`` and the ``sha256`` of the tensors, unchecked.
        dim: Token channels of the backbone.

    Raises:
        WeightsError: Missing, damaged, or not what is described.
    """
    hint = "copy the whole model directory again; without its adapter it is another model"
    try:
        adapter = build_adapter(description, dim)
    except ValueError as error:
        raise WeightsError(f"the config describes {error}", where=path.parent, hint=hint) from error
    if not path.is_file():
        raise WeightsError("the model's adapter is missing", where=path, hint=hint)
    tensors = read_weights(path)
    wanted = adapter.state_dict()
    same = tensors.keys() == wanted.keys() and all(
        (value.shape, value.dtype) == (wanted[key].shape, wanted[key].dtype)
        for key, value in tensors.items()
    )
    if not same or state_digest(tensors) != description.get("sha256"):
        raise WeightsError("not the adapter of this model", where=path, hint=hint)
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise WeightsError("the adapter is not finite", where=path, hint="train it again")
    adapter.load_state_dict(tensors)
    return adapter


def _classifier_names(model: nn.Module) -> set[str]:
    named = cast(Any, model).pretrained_cfg.get("classifier") or ()
    names = (named,) if isinstance(named, str) else tuple(named)
    return {name.split(".")[0] for name in names} | {"head", "head_dist"}


def _resample_positions(model: nn.Module, positions: Tensor, where: str) -> Tensor:
    vit = cast(Any, model)
    wanted = vit.pos_embed
    if positions.shape == wanted.shape or positions.ndim != 3 or wanted.ndim != 3:
        return positions
    if positions.shape[2] != wanted.shape[2]:
        return positions  # reported as a shape mismatch
    import_timm()
    layers = importlib.import_module("timm.layers")
    prefix = 0 if getattr(model, "no_embed_class", False) else int(vit.num_prefix_tokens)
    cells = positions.shape[1] - prefix
    side = math.isqrt(max(cells, 0))
    if cells <= 0 or side * side != cells:
        raise WeightsError(
            f"pos_embed has {positions.shape[1]} rows, which is no square grid with"
            f" {prefix} prefix tokens",
            where=where,
            hint="use weights of the same architecture",
        )
    grid = [int(size) for size in vit.patch_embed.grid_size]
    resampled = layers.resample_abs_pos_embed(
        positions.float(), new_size=grid, old_size=[side, side], num_prefix_tokens=prefix
    )
    return cast(Tensor, resampled)


def _naming_hint(tensors: Mapping[str, Tensor]) -> str:
    if any("encoder.layer" in key or key.startswith("embeddings.") for key in tensors):
        return "these are Hugging Face transformers names; use the timm weights of the model"
    for prefix in ("module.", "model.", "backbone."):
        if tensors and all(key.startswith(prefix) for key in tensors):
            return f"strip the prefix {prefix!r} from the tensor names"
    return "use weights saved by timm for exactly this architecture"
