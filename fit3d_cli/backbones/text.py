"""The text tower of a CLIP whose image tower is a backbone (extra ``language``).

A CLIP checkpoint holds both towers and the two projections into their joint space. fit3d's
backbones are image towers without their projection; this file reads the rest from a safetensors
file in open_clip's layout (``visual.proj``, ``transformer.resblocks.*``, ``text_projection`` ...).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.base import BACKBONES
from fit3d_cli.backbones.weights import read_weights
from fit3d_cli.errors import EnvironmentFault, UnknownNameError, WeightsError

_HEAD_CHANNELS = 64  # per attention head, in every CLIP
_PROJECTION = "visual.proj"
_TEXT = ("token_embedding.weight", "positional_embedding", "ln_final.weight", "text_projection")
_HINT = (
    "name open_clip's safetensors weights of the same CLIP (open_clip_model.safetensors) with "
    "--text-weights FILE"
)


@dataclass(frozen=True)
class TextTower:
    """Words into the joint space, and tokens too.

    Attributes:
        model: open_clip's text transformer, in evaluation mode.
        projection: ``[C, E]`` float32: ``visual.proj``, applied to tokens after the final norm.
    """

    model: nn.Module
    projection: Tensor

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``[T, E]`` unit embeddings of texts; what exceeds the context is cut off.

        Args:
            texts: At least one.
        """
        open_clip = import_open_clip()
        length = int(cast(Any, self.model).context_length)
        tokens = open_clip.SimpleTokenizer(context_length=length)(list(texts))
        with torch.no_grad():
            embedded = self.model(tokens).float()
        return torch.nn.functional.normalize(embedded, dim=1)


def import_open_clip() -> Any:
    """The open_clip package.

    Raises:
        EnvironmentFault: It is not installed.
    """
    from fit3d_cli.backbones.torchvision_shim import import_timm

    import_timm()  # open_clip imports torchvision, which may need the shim
    try:
        import open_clip
    except ImportError as error:
        raise EnvironmentFault(
            "queries in words need open_clip", where="open_clip",
            hint="pip install 'fit3d[language]'",
        ) from error  # fmt: skip
    return open_clip


def require_text(name: str) -> str:
    """Check that a backbone is a CLIP image tower whose tokens still lie in the joint space.

    Args:
        name: Registered or timm name, or that of a tuned model.

    Returns:
        Its timm name.

    Raises:
        UnknownNameError: It is none.
    """
    timm_id = BACKBONES.get(name).timm_id if name in BACKBONES else name
    hint = "lift the scene with a CLIP as it was released, e.g. --backbone clip-base-openai"
    if "clip" not in timm_id or "siglip" in timm_id:
        raise UnknownNameError(f"the backbone {name} has no text tower", where="--text", hint=hint)
    if "_ft_" in timm_id:
        raise UnknownNameError(
            f"{name} was fine-tuned on classes and has left the space of its text tower",
            where="--text", hint=hint,
        )  # fmt: skip
    return timm_id


def load_text_tower(file: str, *, dim: int, quick_gelu: bool) -> TextTower:
    """Read a text tower; its shape follows from its tensors.

    Args:
        file: A safetensors file of a whole CLIP in open_clip's layout; empty if none is named.
        dim: Token channels of the image tower.
        quick_gelu: Whether the transformer uses OpenAI's ``x * sigmoid(1.702 x)``.

    Raises:
        WeightsError: No file, not a CLIP, or one of another image tower.
        EnvironmentFault: open_clip is not installed.
    """
    if not file:
        raise WeightsError("no weights of a text tower are named", where="--text", hint=_HINT)
    path = Path(file).expanduser()
    tensors = read_weights(path)
    missing = [name for name in (_PROJECTION, *_TEXT) if name not in tensors]
    if missing:
        raise WeightsError(f"no whole CLIP: {missing[0]} is missing", where=path, hint=_HINT)
    projection = tensors[_PROJECTION].float()
    if projection.ndim != 2 or projection.shape[0] != dim:
        raise WeightsError(
            f"of another CLIP: its image tower has {projection.shape[0]} channels, not {dim}",
            where=path, hint=_HINT,
        )  # fmt: skip
    model = _build(tensors, projection.shape[1], quick_gelu, path)
    return TextTower(model, projection)


def _build(tensors: Mapping[str, Tensor], dim: int, quick_gelu: bool, path: Path) -> nn.Module:
    from open_clip.transformer import QuickGELU, TextTransformer

    import_open_clip()
    own = {
        name: value.float() for name, value in tensors.items()
        if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias", "attn_mask")
    }  # fmt: skip
    vocabulary, width = own["token_embedding.weight"].shape
    blocks = {
        int(m[1]) for m in map(re.compile(r"transformer\.resblocks\.(\d+)\.").match, own) if m
    }
    hidden = own.get("transformer.resblocks.0.mlp.c_fc.weight", torch.empty(4 * width, 0))
    try:
        model = TextTransformer(
            context_length=len(own["positional_embedding"]), vocab_size=vocabulary, width=width,
            heads=max(1, width // _HEAD_CHANNELS), layers=len(blocks), output_dim=dim,
            mlp_ratio=len(hidden) / width, act_layer=QuickGELU if quick_gelu else nn.GELU,
        )  # fmt: skip
        model.load_state_dict(own, strict=True)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise WeightsError("no text tower of a plain CLIP", where=path, hint=_HINT) from error
    return cast(nn.Module, model.eval())
