"""Low-rank updates of linear layers (Hu et al. 2022, arXiv:2106.09685) that merge without a trace.

An updated layer stands in the place of the old one and holds it. (torch's own parametrisations
share one class between a module and its copies, and merging a copy breaks the module.)
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fit3d_cli.errors import SettingsError

Layers = Literal["qv", "all"]
_HINT = "choose another finetune.train.part"


class LowRank(nn.Module):
    """``W' = W + B A`` on some rows of a weight matrix, in float32 whatever autocast says.

    A starts as in ``nn.Linear`` (uniform, Kaiming), B at zero, and there is no further factor, so
    that the first step sees W itself, bit for bit. With ``keep_norm`` every row w' of W' is given
    back the length of its row w of W, ``w' |w| / |w'|`` (Fin3R, NeurIPS 2025: plain LoRA makes
    features longer, which harms matching).

    Args:
        weight: ``[out, in]``.
        spans: Updated rows as ``(start, stop)``, rising; each has its own A and B.
        rank: Rows of each A.
        keep_norm: Keep the length of every row.
        generator: On the CPU; draws A.
    """

    def __init__(
        self,
        weight: Tensor,
        spans: tuple[tuple[int, int], ...],
        rank: int,
        *,
        keep_norm: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.spans = spans
        self.keep_norm = keep_norm
        width = weight.shape[1]
        bound = 1 / math.sqrt(width)
        self.a = nn.ParameterList()
        self.b = nn.ParameterList()
        for start, stop in spans:
            drawn = torch.empty(rank, width).uniform_(-bound, bound, generator=generator)
            self.a.append(nn.Parameter(drawn.to(weight.device)))
            self.b.append(nn.Parameter(torch.zeros(stop - start, rank, device=weight.device)))

    def forward(self, weight: Tensor) -> Tensor:
        """``[out, in]`` to ``[out, in]``; rows outside the spans stay as they are."""
        pieces = []
        done = 0
        with torch.autocast(weight.device.type, enabled=False):
            for (start, stop), a, b in zip(self.spans, self.a, self.b, strict=True):
                rows = weight[start:stop]
                moved = rows + b @ a
                if self.keep_norm:
                    # Lengths in float64: their ratio then rounds to exactly 1 at the start.
                    kept, now = _lengths(rows), _lengths(moved).clamp_min(1e-30)
                    moved = moved * (kept / now).to(moved.dtype)
                pieces += [weight[done:start], moved]
                done = stop
            return torch.cat([*pieces, weight[done:]])


class LowRankLinear(nn.Module):
    """A linear layer with an update of its weight; it has a weight and a bias like any other.

    Args:
        linear: The layer as it was.
        update: What changes its weight.
    """

    def __init__(self, linear: nn.Linear, update: LowRank) -> None:
        super().__init__()
        self.linear = linear
        self.update = update

    @property
    def weight(self) -> Tensor:
        """``[out, in]``, updated; timm's EVA reads it instead of calling the layer."""
        return cast(Tensor, self.update(self.linear.weight))

    @property
    def bias(self) -> Tensor | None:
        """``[out]`` or None."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        return nn.functional.linear(x, self.weight, self.bias)

    def merged(self) -> nn.Linear:
        """The layer as it was, with the updated weight."""
        with torch.no_grad():
            self.linear.weight.copy_(self.weight)
        return self.linear


def add_low_rank(
    model: nn.Module,
    *,
    rank: int,
    blocks: int,
    layers: Layers,
    keep_norm: bool,
    generator: torch.Generator,
) -> None:
    """Put a ``LowRank`` on linear layers of the last blocks of a timm ViT, in place.

    Args:
        model: With ``blocks``.
        rank: Rank of every update.
        blocks: How many of the last blocks; 0 = all.
        layers: ``qv`` = the query and value rows of ``attn.qkv``; ``all`` = every linear layer.
        keep_norm: See ``LowRank``.
        generator: On the CPU.

    Raises:
        SettingsError: The model has no such blocks or layers, or they are smaller than the rank.
    """
    found = list(cast(Any, model).blocks)
    if blocks > len(found):
        raise SettingsError(
            f"{blocks} blocks, but the backbone has {len(found)}",
            where="finetune.train.blocks",
            hint=f"give at most {len(found)}, or 0 for all",
        )
    chosen = [
        choice
        for block in found[len(found) - blocks if blocks else 0 :]
        for choice in (_query_value(block) if layers == "qv" else _linear(block))
    ]
    limit = min(
        min(layer.in_features, *(stop - start for start, stop in spans))
        for _, _, layer, spans in chosen
    )
    if rank > limit:
        raise SettingsError(
            f"rank {rank} is above {limit}, the full rank of the backbone's layers",
            where="finetune.train.rank",
            hint=f"give at most {limit}, or train.part = full",
        )
    for parent, name, layer, spans in chosen:
        update = LowRank(layer.weight, spans, rank, keep_norm=keep_norm, generator=generator)
        setattr(parent, name, LowRankLinear(layer, update))


def merge_low_rank(model: nn.Module) -> None:
    """Give every updated layer its value; the modules are timm's own again."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRankLinear):
                setattr(parent, name, child.merged())


def has_low_rank(model: nn.Module) -> bool:
    """Whether a layer has an update that was not merged."""
    return any(isinstance(module, LowRankLinear) for module in model.modules())


# A module, a linear layer right in it by name, and the rows that are updated.
_Choice = tuple[nn.Module, str, nn.Linear, tuple[tuple[int, int], ...]]


def _query_value(block: nn.Module) -> list[_Choice]:
    """Queries and values: the first and the last third of qkv's rows, or layers of their own."""
    attention = getattr(block, "attn", None)
    layers = {} if attention is None else dict(_linear_children(attention))
    joint = layers.get("qkv")
    if attention is not None and joint is not None and joint.out_features % 3 == 0:
        third = joint.out_features // 3
        return [(attention, "qkv", joint, ((0, third), (2 * third, 3 * third)))]
    split = [name for name in ("q_proj", "v_proj") if name in layers]
    if attention is None or len(split) != 2:
        raise SettingsError(
            "the backbone's blocks have no layer of queries and values",
            where="finetune.train.part",
            hint=_HINT,
        )
    return [(attention, name, layers[name], ((0, layers[name].out_features),)) for name in split]


def _linear(block: nn.Module) -> list[_Choice]:
    found: list[_Choice] = [
        (parent, name, layer, ((0, layer.out_features),))
        for parent in block.modules()
        for name, layer in _linear_children(parent)
    ]
    if not found:
        raise SettingsError(
            "the backbone's blocks have no linear layers", where="finetune.train.part", hint=_HINT
        )
    return found


def _linear_children(parent: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, m) for name, m in parent.named_children() if isinstance(m, nn.Linear)]


def _lengths(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    return cast(Tensor, lengths)
