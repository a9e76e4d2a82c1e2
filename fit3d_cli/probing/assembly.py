"""Which models' tokens make the features of a row, and how."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fit3d_cli.errors import SettingsError

# base, tuned: one model. concat: channels side by side, unscaled (FiT3D's assembly). sum: added
# (FiT3D, table 7 "add"). fused: side by side, then a learnt linear map back to one model's width
# (table 7 "linear fusion"), which only tasks with a trained head have.
PARTS: Mapping[str, tuple[str, ...]] = {
    "base": ("base",),
    "tuned": ("tuned",),
    "concat": ("base", "tuned"),
    "sum": ("base", "tuned"),
    "fused": ("base", "tuned"),
}


def assemble(row: str, tokens: Mapping[str, Tensor]) -> Tensor:
    """Features of a row.

    Args:
        row: Key of ``PARTS``; for ``fused`` the head does the rest and this is ``concat``.
        tokens: ``[..., C]`` of each model that the row needs.

    Raises:
        SettingsError: The models' tokens do not go together.
    """
    parts = [tokens[name] for name in PARTS[row]]
    first = parts[0]
    fits = all(p.shape[:-1] == first.shape[:-1] for p in parts)
    if not fits or (row == "sum" and any(p.shape != first.shape for p in parts)):
        raise SettingsError(
            "base and tuned have different token grids or widths",
            where=f"--models {row}",
            hint="use a model that was tuned from this base",
        )
    if row == "sum":
        return torch.stack(parts).sum(0)
    return first if len(parts) == 1 else torch.cat(parts, dim=-1)


def require_no_head(rows: tuple[str, ...], task: str) -> None:
    """Refuse ``fused`` for tasks that train nothing.

    Raises:
        SettingsError: ``fused`` is asked for.
    """
    if "fused" in rows:
        raise SettingsError(
            f"{task} trains nothing, so there is no linear fusion to learn",
            where="--models fused",
            hint="choose of base, tuned, concat, sum",
        )
