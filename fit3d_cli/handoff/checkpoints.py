"""Other people's checkpoints as backbones: FiT3D, 3DCorrEnhance, SnD, DINOv2, transformers.

What is known of the layouts:

- FiT3D (ECCV 2024), ``<key>_finetuned.pth``: a flat state dict under timm's names. Its training
  writes ``{"model": ..., "optimizer": ..., "args": ...}``.
- 3DCorrEnhance (ICLR 2025), ``*.ckpt``: a Lightning checkpoint with ``w_a_000 ... w_b_007`` at the
  top, low-rank updates of the queries and the values of the last four blocks, block by block,
  queries first: ``W' = W + B A`` without a factor; and ``state_dict/refine_conv``, a 3x3
  convolution that replaces the normed patch tokens. The rest is the public backbone.
- Splat and Distill (ICLR 2026), ``dinov2_*_snd*.pth``: a flat state dict under
  facebookresearch/dinov2's names, with ``mask_token``.
- transformers: ``Dinov2Model``, ``Dinov2WithRegistersModel``, ``ViTModel``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fit3d_cli.backbones.adapters import ConvAdapter
from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.weights import fit_weights
from fit3d_cli.device import seeded
from fit3d_cli.errors import Fit3dError, WeightsError
from fit3d_cli.handoff.foreign import is_low_rank, read_checkpoint, unwrapped
from fit3d_cli.handoff.naming import fold_class_row, from_facebook, from_transformers
from fit3d_cli.storage import sha256_file

# Names of 3DCorrEnhance's files; they do not say which backbone they belong to.
_LOW_RANK_BASES = {
    "dinov2_small": "dinov2-small", "dinov2_base": "dinov2-base", "dinov2_large": "dinov2-large",
    "dinov2_giant": "vit_giant_patch14_dinov2.lvd142m",
    "dinov2_reg_small": "dinov2-small-reg", "dinov2_reg_base": "dinov2-base-reg",
    "dinov2_reg_large": "dinov2-large-reg",
    "dinov2_reg_giant": "vit_giant_patch14_reg4_dinov2.lvd142m",
    "clip": "clip-base", "mae": "mae-base", "deit": "deit3-base",
}  # fmt: skip
# Channels of timm's sizes, so that not every registered backbone has to be built.
_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024}
_UPDATE = re.compile(r"w_([ab])_(\d{3})")
_CONV = "state_dict/refine_conv/"
# Of training only, no part of the tokens.
_UNUSED = {"mask_token"}


@dataclass(frozen=True)
class Converted:
    """A foreign checkpoint as a backbone.

    Attributes:
        backbone: Named after the file.
        layout: ``timm``, ``facebookresearch``, ``transformers`` or ``3dcorrenhance``.
        base: ``name`` of what it was tuned from as far as its architecture tells, and its
            ``weights_sha256`` where the base's weights were needed.
        matched: Tensors of the file that were used.
        ignored: Names of those that were not.
        sha256: Of the file.
    """

    backbone: Backbone
    layout: str
    base: Mapping[str, str]
    matched: int
    ignored: tuple[str, ...] = field(default=())
    sha256: str = ""

    def describe(self, file: Path) -> dict[str, Any]:
        """What ``fit3d.json`` says of it, plain JSON types."""
        return {
            "layout": self.layout, "file": file.name, "sha256": self.sha256,
            "tensors": self.matched, "ignored": len(self.ignored),
        }  # fmt: skip


def convert_checkpoint(path: Path, *, backbone: str = "", weights: str = "") -> Converted:
    """Read a checkpoint that fit3d did not write.

    Args:
        path: ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` or ``.safetensors``.
        backbone: Its architecture; empty = told from the tensors, or for 3DCorrEnhance from
            the file's name.
        weights: Of the base, for 3DCorrEnhance; empty = the hub's.

    Raises:
        WeightsError: Not read, not recognised, or not every tensor has its place; the message
            counts them.
        UnknownNameError: No such backbone.
        OfflineError: The base's weights would have to be downloaded.
    """
    tensors = read_checkpoint(path)
    if is_low_rank(tensors):
        made = _low_rank(path, tensors, backbone, weights)
    elif weights:
        raise WeightsError(
            "it holds all weights and needs none of a base", where="--weights", hint="leave it out"
        )
    else:
        made = _whole(path, tensors, backbone)
    made.backbone.name = path.stem
    return Converted(
        made.backbone, made.layout, made.base, made.matched, made.ignored, sha256_file(path)
    )


def _whole(path: Path, tensors: dict[str, Tensor], name: str) -> Converted:
    """A complete state dict."""
    inner, outside = unwrapped(tensors)
    layout, state = _timm_names(inner)
    ignored = tuple(sorted({*outside, *(_UNUSED & state.keys())}))
    state = {key: value for key, value in state.items() if key not in _UNUSED}
    made = _random(name or guess_backbone(state, path))
    model = cast(Any, made.model)
    own_rows = getattr(model, "no_embed_class", False)
    if layout != "timm" and own_rows and {"cls_token", "pos_embed"} <= state.keys():
        fold_class_row(state)
    fit = fit_weights(made.model, state, where=str(path))
    made.source, made.matched, made.ignored = str(path), fit.matched, fit.ignored
    return Converted(made, layout, {"name": made.name}, fit.matched, ignored)


def _timm_names(tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    if any("encoder.layer." in key or "embeddings.cls_token" in key for key in tensors):
        named = from_transformers(tensors)
        # ViTModel has one more layer behind the class token; mask_token serves pretraining.
        own = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"}
        unused = {"mask_token": named["embeddings.mask_token"]} if (
            "embeddings.mask_token" in named) else {}  # fmt: skip
        return "transformers", {k: v for k, v in named.items() if k not in own} | unused
    if "mask_token" in tensors or "register_tokens" in tensors:
        return "facebookresearch", from_facebook(tensors)
    return "timm", tensors


def guess_backbone(state: Mapping[str, Tensor], path: Path) -> str:
    """The registered backbone whose tensors these are, by names and shapes.

    The position embedding is left out, because it may be of another grid, and so is a classifier.

    Raises:
        WeightsError: None, or several.
    """
    given = {key: tuple(value.shape) for key, value in state.items()}
    width = (given.get("cls_token") or given.get("norm.weight") or (0,))[-1]
    sized = [name for name in BACKBONES.names() if _WIDTHS.get(_size(name)) == width]
    best, shared, of = "", -1, 0
    fitting = []
    for name in sized or [name for name in BACKBONES.names() if _size(name) == "small"]:
        wanted = {key: shape for key, shape in shapes_of(name).items() if key != "pos_embed"}
        count = sum(given.get(key) == shape for key, shape in wanted.items())
        if count == len(wanted) and not _extra(given.keys() - wanted.keys()):
            fitting.append(name)
        if count > shared:
            best, shared, of = name, count, len(wanted)
    if len(fitting) > 1 and "pos_embed" in given:
        fitting = [
            name for name in fitting if shapes_of(name).get("pos_embed") == given["pos_embed"]
        ] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise WeightsError(
            f"may be {' or '.join(fitting)}", where=path, hint="say which with --backbone"
        )
    raise WeightsError(
        f"matches {shared} of {of} tensors of {best}, the nearest registered backbone"
        f" (its first is {min(given, default='none')!r})",
        where=path,
        hint="name its architecture with --backbone, as timm calls it",
    )


def _extra(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] not in {"head", "fc_norm", "pos_embed"}}


def _size(name: str) -> str:
    return next((word for word in BACKBONES.get(name).timm_id.split("_") if word in _WIDTHS), "")


@functools.cache
def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's tensors; building it takes no memory, but time."""
    with torch.device("meta"):
        state = load_backbone(name, pretrained=False, device="meta").model.state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def _random(name: str) -> Backbone:
    with seeded(0):
        return load_backbone(name, pretrained=False)


def _low_rank(path: Path, tensors: Mapping[str, Tensor], name: str, weights: str) -> Converted:
    """3DCorrEnhance: the public backbone, its updates merged in, and its convolution."""
    name = name or _LOW_RANK_BASES.get(path.stem, "")
    if not name:
        raise WeightsError(
            "holds updates of a backbone that it does not name",
            where=path,
            hint=f"say which with --backbone (files called {', '.join(_LOW_RANK_BASES)} need none)",
        )
    try:
        made = load_backbone(name, weights=weights)
    except Fit3dError as error:
        if weights or error.exit_code == 2:
            raise
        raise type(error)(
            f"its base {name} is needed: {error.what}", where=path,
            hint="say where its weights are with --weights FILE",
        ) from error  # fmt: skip
    base = {"name": made.name, "weights_sha256": made.weights_sha256}
    pairs = _pairs(tensors, path)
    blocks = list(cast(Any, made.model).blocks)
    if len(pairs) % 2 or len(pairs) // 2 > len(blocks):
        raise WeightsError(
            f"{len(pairs)} updates for {len(blocks)} blocks", where=path,
            hint="queries and values are updated in pairs; get the file again",
        )  # fmt: skip
    dim = made.dim
    with torch.no_grad():
        for index, (a, b) in enumerate(pairs):
            if a.shape != (b.shape[1], dim) or b.shape != (dim, a.shape[0]):
                raise WeightsError(
                    f"update {index} is {tuple(b.shape)} x {tuple(a.shape)}, {name} has {dim}"
                    " channels",
                    where=path,
                    hint="name its own backbone with --backbone",
                )
            block = blocks[len(blocks) - len(pairs) // 2 + index // 2]
            start = 0 if index % 2 == 0 else 2 * dim  # the values are the last third
            block.attn.qkv.weight[start : start + dim] += b.float() @ a.float()
    made.adapter = _convolution(tensors, dim, path)
    used = 2 * len(pairs) + 2
    ignored = tuple(sorted(key for key in tensors if not _UPDATE.fullmatch(key)
                           and not key.startswith(_CONV)))  # fmt: skip
    return Converted(made, "3dcorrenhance", base, used, ignored)


def _pairs(tensors: Mapping[str, Tensor], path: Path) -> list[tuple[Tensor, Tensor]]:
    """A and B of every update, in their order."""
    found: dict[str, dict[int, Tensor]] = {"a": {}, "b": {}}
    for key, value in tensors.items():
        match = _UPDATE.fullmatch(key)
        if match:
            found[match[1]][int(match[2])] = value
    order = sorted(found["a"])
    whole = found["a"].keys() == found["b"].keys() and order == list(range(len(order)))
    finite = all(
        value.ndim == 2 and bool(torch.isfinite(value).all())
        for side in found.values() for value in side.values()
    )  # fmt: skip
    if not whole or not finite:
        raise WeightsError(
            f"{len(found['a'])} w_a and {len(found['b'])} w_b that do not belong together",
            where=path,
            hint="get the file again",
        )
    return [(found["a"][index], found["b"][index]) for index in order]


def _convolution(tensors: Mapping[str, Tensor], dim: int, path: Path) -> ConvAdapter:
    """``refine_conv`` as an adapter: ``conv(x) = x + (conv - identity)(x)``."""
    weight, bias = tensors.get(f"{_CONV}weight"), tensors.get(f"{_CONV}bias")
    if (
        weight is None or bias is None
        or weight.shape != (dim, dim, 3, 3) or bias.shape != (dim,)
        or not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all())
    ):  # fmt: skip
        raise WeightsError(
            f"its refine_conv is no 3x3 convolution of {dim} channels",
            where=path,
            hint="name its own backbone with --backbone",
        )
    adapter = ConvAdapter(dim)
    with torch.no_grad():
        adapter.conv.weight.copy_(weight)
        adapter.conv.weight[:, :, 1, 1] -= torch.eye(dim)
        adapter.conv.bias.copy_(bias)  # type: ignore[union-attr]
    return adapter
