"""A backbone as an ONNX file for pictures of one size, proved with ONNX Runtime."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fit3d_cli import __version__
from fit3d_cli.backbones.fixed import fixed_size
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import EnvironmentFault, WeightsError
from fit3d_cli.handoff.agreement import require_agreement, sample_images
from fit3d_cli.storage import require_writable, write_bytes

INPUT, PATCHES, CLASS = "pixel_values", "patch_tokens", "class_token"
OPSET = 18
METADATA = "fit3d"
_MOST_BYTES = 2**31 - 2**20  # of one protobuf message


def write_onnx(
    path: Path, backbone: Backbone, *, width: int = 0, height: int = 0
) -> dict[str, Any]:
    """Write an ONNX model: ``pixel_values [B, 3, H, W]`` to patch and class tokens.

    ``patch_tokens [B, h, w, C]`` and ``class_token [B, C]`` are those of
    ``Backbone.tokens_and_cls``, the adapter included. Pictures are normalised before they go in;
    how is in the file's metadata under ``fit3d``, JSON. The batch size is free, H and W are not.

    Args:
        path: Where.
        backbone: What.
        width: Of the pictures; 0 = that of the stored position grid.
        height: Likewise.

    Returns:
        Facts, plain JSON types: size, grid, ``max_error`` against torch, largest token.

    Raises:
        EnvironmentFault: The extra ``onnx`` is not installed.
        SettingsError: The size is no patch multiple.
        WeightsError: The graph cannot be made, is above 2 GB, or gives other tokens.
        StorageError: The disk refused.
    """
    runtime = _require("onnxruntime")
    for module in ("onnx", "onnxscript"):
        _require(module)
    require_writable(path.parent)
    rows, columns = backbone.grid_size
    width, height = width or columns * backbone.patch_size, height or rows * backbone.patch_size
    fixed = fixed_size(backbone.cpu(), width, height)
    size = sum(tensor.numel() * tensor.element_size() for tensor in fixed.state().values())
    if size > _MOST_BYTES:
        raise WeightsError(
            f"{size / 2**30:.1f} GiB of weights do not fit into one ONNX file (2 GiB)",
            where=backbone.name,
            hint="use --to transformers or --to hub",
        )
    described = _describe(backbone, width, height)
    data = _graph(_Tokens(fixed), sample_images(backbone, width, height, 2), described, backbone)
    figures = _check(runtime, data, fixed, path)
    write_bytes(path, data)
    return {
        "path": path, "backbone": backbone.name, "width": width, "height": height,
        "grid": [height // backbone.patch_size, width // backbone.patch_size],
        "bytes": len(data), **figures,
    }  # fmt: skip


class _Tokens(nn.Module):
    """``Backbone.tokens_and_cls`` for pictures that are normalised already."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.backbone.tokens_and_cls(pixel_values, normalised=True)


def _graph(
    module: nn.Module, images: Tensor, described: dict[str, Any], backbone: Backbone
) -> bytes:
    """The serialised model, without traces of this machine."""
    try:
        with warnings.catch_warnings(), _silenced():
            warnings.simplefilter("ignore")  # of the exporter, about its own insides
            program = torch.onnx.export(
                module.eval(), (images,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=[INPUT], output_names=[PATCHES, CLASS],
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            )  # fmt: skip
    except Exception as error:  # the exporter's own types, which are not public
        raise WeightsError(
            f"torch's ONNX exporter cannot take it ({str(error).splitlines()[0][:120]})",
            where=backbone.name,
            hint="use --to hub, or a model without adapter",
        ) from error
    assert program is not None
    model = program.model_proto
    # The exporter notes the Python line of every node, with this machine's paths.
    model.doc_string = ""
    model.graph.doc_string = ""
    for holder in (*model.graph.node, *model.graph.value_info, *model.graph.input,
                   *model.graph.output, *model.graph.initializer):  # fmt: skip
        holder.doc_string = ""
        del holder.metadata_props[:]
    del model.graph.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        function.doc_string = ""
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(described, sort_keys=True)
    model.producer_name, model.producer_version = "fit3d", __version__
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def _check(runtime: ModuleType, data: bytes, fixed: Backbone, path: Path) -> dict[str, float]:
    """Run it with batches of one and three: the batch size is free, and the tokens are ours."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    _, _, height, width = session.get_inputs()[0].shape
    worst, largest = 0.0, 0.0
    for count in (1, 3):
        images = sample_images(fixed, width, height, count)
        patches, pooled = session.run([PATCHES, CLASS], {INPUT: images.numpy()})
        with torch.no_grad():
            expected = fixed.tokens_and_cls(images, normalised=True)
        for ours, theirs in zip(expected, (patches, pooled), strict=True):
            got = torch.from_numpy(np.asarray(theirs))
            worst = max(worst, require_agreement(ours, got, where=path, reader="ONNX Runtime"))
            largest = max(largest, float(ours.abs().max()))
    return {"max_error": worst, "largest_token": largest}


def _describe(backbone: Backbone, width: int, height: int) -> dict[str, Any]:
    return {
        "backbone": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "licence": backbone.licence,
        "input": {
            "name": INPUT, "layout": "B 3 H W, RGB, float32", "width": width, "height": height,
            "resize": "to this size, bilinear with antialiasing, never cropped",
            "scale": "value / 255, then (x - mean) / std per channel",
            "mean": list(backbone.mean), "std": list(backbone.std),
        },
        "outputs": {
            PATCHES: "B h w C, after the final norm"
            + (f" and the {backbone.adapter_kind} adapter" if backbone.adapter_kind else ""),
            CLASS: "B C, one token for the picture",
        },
        "patch_size": backbone.patch_size,
    }  # fmt: skip


class _silenced:
    """The exporter logs what it does to a logger that ``-v`` would show."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentFault(
            f"{module} is not installed", where="--to onnx", hint="pip install 'fit3d[onnx]'"
        ) from error
