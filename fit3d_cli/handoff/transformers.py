"""A backbone as a transformers model directory, proved by loading it with ``from_pretrained``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.export import CARD_NAME, cell, front_matter
from fit3d_cli.backbones.fixed import fixed_size
from fit3d_cli.backbones.load import CONFIG_NAME, WEIGHTS_NAME
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import EnvironmentFault, SettingsError, StorageError, WeightsError
from fit3d_cli.handoff.agreement import all_tokens, require_agreement, sample_images
from fit3d_cli.handoff.naming import to_transformers
from fit3d_cli.storage import require_writable, scratch_folder, write_json, write_text
from fit3d_cli.tensorfile import write_tensors

PROCESSOR_NAME = "preprocessor_config.json"
_MODEL_TYPES = {
    "ViTModel": "vit",
    "Dinov2Model": "dinov2",
    "Dinov2WithRegistersModel": "dinov2_with_registers",
}
_BILINEAR = 2  # Pillow's number
_CARD = """# {name} for transformers

`{name}` ({timm_id}) converted by [fit3d](https://pypi.org/project/fit3d/).

```python
from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("PATH/TO/THIS/DIRECTORY")
model = AutoModel.from_pretrained("PATH/TO/THIS/DIRECTORY")
tokens = model(**processor(image, return_tensors="pt")).last_hidden_state
```

`last_hidden_state` is `[B, {prefix} + {rows} * {columns}, {dim}]`: {prefix} class and register
tokens, then the patches row by row. Checked when it was written: at {width}x{height} pixels the
largest difference to timm's tokens was {error:.2g}. At other sizes transformers resamples the
position embedding in its own way, and the tokens differ more.

Licence of the weights: {licence}.
"""


def write_transformers(
    directory: Path, backbone: Backbone, *, width: int = 0, height: int = 0
) -> dict[str, Any]:
    """Write ``config.json``, ``model.safetensors``, ``preprocessor_config.json``, ``README.md``.

    DINOv2, with or without registers, and DeiT III become ``Dinov2Model`` or
    ``Dinov2WithRegistersModel``; plain ViTs, DeiT and MAE become ``ViTModel`` whose pooler
    passes the class token through. Other families have no counterpart with the same tokens.

    Args:
        directory: New, or what an earlier export wrote.
        backbone: On the CPU.
        width: At which the position embedding is stored; 0 = as it is.
        height: Likewise.

    Returns:
        Facts, plain JSON types: class, tensors, ``max_error`` against timm.

    Raises:
        EnvironmentFault: The extra ``hf`` is not installed.
        SettingsError: The size is no patch multiple, or not square where it has to be.
        WeightsError: No counterpart, or other tokens; nothing was written.
        StorageError: The disk refused.
    """
    kind = _counterpart(backbone)
    library = _library()
    require_writable(directory)
    rows, columns = backbone.grid_size
    width, height = width or columns * backbone.patch_size, height or rows * backbone.patch_size
    if width != height and kind != "ViTModel":
        raise SettingsError(
            f"{kind} takes the stored positions for a square, not for {width}x{height}",
            where="--width",
            hint=f"give --width {max(width, height)} --height {max(width, height)}",
        )
    fixed = fixed_size(backbone, width, height)
    tensors = _tensors(fixed, kind)
    config, processor = _config(fixed, kind, width, height), _processor(fixed, width, height)
    with scratch_folder() as scratch:
        # Checked before the first byte goes to its place.
        _write(scratch, tensors, config, processor, "")
        error, largest = _check(library, scratch, kind, fixed, directory)
    card = front_matter(backbone, library="transformers") + _CARD.format(
        name=cell(backbone.name), timm_id=cell(backbone.timm_id), prefix=backbone.prefix_tokens,
        rows=height // backbone.patch_size, columns=width // backbone.patch_size,
        dim=backbone.dim, width=width, height=height, error=error, licence=cell(backbone.licence),
    )  # fmt: skip
    _write(directory, tensors, config, processor, card)
    return {
        "path": directory, "class": kind, "backbone": backbone.name, "tensors": len(tensors),
        "width": width, "height": height, "max_error": error, "largest_token": largest,
    }  # fmt: skip


def _counterpart(backbone: Backbone) -> str:
    """Name of transformers' class.

    Raises:
        WeightsError: There is none with the same tokens.
    """
    model = cast(Any, backbone.model)
    block = getattr(model, "blocks", [None])[0]
    attention = getattr(block, "attn", None)
    reasons = {
        f"a {backbone.adapter_kind} adapter": backbone.adapter is not None,
        "rotary positions": getattr(model, "pos_embed", None) is None
        or getattr(model, "rope", None) is not None,
        "no class token": getattr(model, "cls_token", None) is None,
        "a norm before the blocks": _is_there(getattr(model, "norm_pre", None)),
        "its final norm behind the pooling": not _is_there(getattr(model, "norm", None)),
        "normalised queries and keys": _is_there(getattr(attention, "q_norm", None)),
        "no stacked queries, keys and values": not hasattr(attention, "qkv"),
    }
    found = [reason for reason, given in reasons.items() if given]
    if found:
        raise WeightsError(
            f"has {found[0]}: DINOv2, DeiT and plain ViTs are what is converted to transformers",
            where=backbone.name,
            hint="use --to onnx or --to hub",
        )
    if getattr(model, "reg_token", None) is not None:
        return "Dinov2WithRegistersModel"
    scaled = _is_there(getattr(block, "ls1", None))
    return "Dinov2Model" if scaled else "ViTModel"


def _is_there(module: nn.Module | None) -> bool:
    return module is not None and not isinstance(module, nn.Identity)


def _tensors(backbone: Backbone, kind: str) -> dict[str, Tensor]:
    """The state under transformers' names, with what its class has beyond timm's.

    Raises:
        WeightsError: timm has a tensor that the class has no place for.
    """
    model = cast(Any, backbone.model)
    state = {key: value.detach() for key, value in model.state_dict().items()}
    scaled = kind != "ViTModel"
    try:
        named = to_transformers(
            state, class_row=not getattr(model, "no_embed_class", False), scaled=scaled,
            gated=_gated(backbone),
        )  # fmt: skip
    except KeyError as error:
        raise WeightsError(
            f"{kind} has no place for {error.args[0]}",
            where=backbone.name,
            hint="use --to onnx or --to hub",
        ) from error
    if scaled:
        named["embeddings.mask_token"] = torch.zeros(1, backbone.dim)
        for layer in range(len(model.blocks)):  # registers without layer scale
            for key in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
                named.setdefault(f"encoder.layer.{layer}.{key}", torch.ones(backbone.dim))
    else:
        named["pooler.dense.weight"] = torch.eye(backbone.dim)
        named["pooler.dense.bias"] = torch.zeros(backbone.dim)
    return named


def _gated(backbone: Backbone) -> bool:
    layer = cast(Any, backbone.model).blocks[0].mlp
    return bool(layer.fc1.out_features == 2 * layer.fc2.in_features)


def _config(backbone: Backbone, kind: str, width: int, height: int) -> dict[str, Any]:
    model = cast(Any, backbone.model)
    block = model.blocks[0]
    hidden = int(block.mlp.fc1.out_features)
    shared = {
        "architectures": [kind],
        "model_type": _MODEL_TYPES[kind],
        "hidden_size": backbone.dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": int(block.attn.num_heads),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": float(model.norm.eps),
        "image_size": width if width == height else [height, width],
        "patch_size": backbone.patch_size,
        "num_channels": 3,
        "qkv_bias": block.attn.qkv.bias is not None,
        "torch_dtype": "float32",
    }
    if kind == "ViTModel":
        return {**shared, "intermediate_size": hidden, "pooler_act": "linear",
                "pooler_output_size": backbone.dim}  # fmt: skip
    gated = _gated(backbone)
    # A gated MLP keeps two thirds of the hidden size, and has two of it in its first layer.
    registers = 0 if model.reg_token is None else int(model.reg_token.shape[1])
    return {
        **shared,
        "mlp_ratio": round(hidden * 3 / 4 / backbone.dim) if gated else hidden // backbone.dim,
        "use_swiglu_ffn": gated,
        "layerscale_value": 1.0,
        "drop_path_rate": 0.0,
        **({"num_register_tokens": registers} if registers else {}),
    }


def _processor(backbone: Backbone, width: int, height: int) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(backbone.mean),
        "image_std": list(backbone.std),
    }


def _write(
    directory: Path,
    tensors: dict[str, Tensor],
    config: dict[str, Any],
    processor: dict[str, Any],
    card: str,
) -> None:
    """``config.json`` is removed first and written last: without it nothing is loaded."""
    try:
        (directory / CONFIG_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"an old {CONFIG_NAME} cannot be removed ({error.strerror})",
            where=directory,
            hint="choose another directory",
        ) from error
    write_text(directory / CARD_NAME, card)
    write_json(directory / PROCESSOR_NAME, processor)
    write_tensors(directory / WEIGHTS_NAME, tensors, {"format": "pt"})
    write_json(directory / CONFIG_NAME, config)


def _check(
    library: Any, directory: Path, kind: str, backbone: Backbone, where: Path
) -> tuple[float, float]:
    """Load it as users do: every tensor has its place, and the tokens are timm's.

    Returns:
        Largest difference and largest token.
    """
    with _quiet(library):
        model, report = getattr(library, kind).from_pretrained(
            directory, output_loading_info=True, local_files_only=True
        )
    wrong = [
        f"{len(report[what])} {what.removesuffix('_keys')} ({sorted(map(str, report[what]))[0]})"
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(what)
    ]
    if wrong:
        raise WeightsError(
            f"{kind} does not fit: {', '.join(wrong)}",
            where=where,
            hint="report it with the name of the backbone",
        )
    height, width = (side * backbone.patch_size for side in backbone.grid_size)
    images = sample_images(backbone, width, height, 2)
    with torch.no_grad():
        got = model.eval()(pixel_values=images).last_hidden_state
    expected = all_tokens(backbone, images)
    return require_agreement(expected, got, where=where, reader="transformers"), float(
        expected.abs().max()
    )


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No progress bars of transformers where nobody asked."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _library() -> Any:
    from fit3d_cli.backbones.torchvision_shim import allow_broken_torchvision

    allow_broken_torchvision()  # transformers looks for torchvision too
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EnvironmentFault(
            "transformers is not installed", where="--to transformers",
            hint="pip install 'fit3d[hf]'",
        ) from error  # fmt: skip


def is_ours(directory: Path) -> bool:
    """Whether a directory may be replaced: what ``write_transformers`` wrote, or an empty one."""
    names = {path.name for path in directory.iterdir()}
    return names <= {CONFIG_NAME, WEIGHTS_NAME, PROCESSOR_NAME, CARD_NAME}
