"""Frozen features of a split: one or two backbones together, read where they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.backbones.token_store import TokenStore
from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.probing.assembly import PARTS, assemble


@dataclass(frozen=True)
class Features:
    """Features of a row of the report, put together from its models' tokens.

    Attributes:
        row: Key of ``assembly.PARTS``.
        stores: Tokens of the same pictures by model name; those that the row needs.
        with_cls: Append the first model's class token to every patch token.

    Raises:
        SettingsError: The models' tokens do not go together.
    """

    row: str
    stores: Mapping[str, TokenStore]
    with_cls: bool = False

    def __post_init__(self) -> None:
        # Sizes depend on the models alone, so the first picture tells for all.
        assemble(self.row, {name: self.stores[name][0].patches for name in PARTS[self.row]})

    def __len__(self) -> int:
        return len(self.stores[PARTS[self.row][0]])

    def grid(self, index: int) -> Tensor:
        """``[h, w, C]`` float32 of a picture, on the CPU."""
        tokens = {name: self.stores[name][index].patches.float() for name in PARTS[self.row]}
        return self._finish(index, assemble(self.row, tokens))

    def at(self, index: int, places: Tensor) -> Tensor:
        """Bilinear features at places of a picture, ``[P, C]`` float32.

        Args:
            index: The picture.
            places: ``[P, 2]`` x and y in 0..1 of the picture's width and height.
        """
        tokens = {
            name: interpolate(self.stores[name][index].patches, places) for name in PARTS[self.row]
        }
        return self._finish(index, assemble(self.row, tokens))

    def _finish(self, index: int, tokens: Tensor) -> Tensor:
        if not self.with_cls:
            return tokens
        cls = self.stores[PARTS[self.row][0]][index].cls.float()
        return torch.cat([tokens, cls.expand(*tokens.shape[:-1], -1)], dim=-1)

    def widths(self) -> tuple[int, int]:
        """Channels of the assembled patch tokens, and of one model's."""
        first = [self.stores[name][0].patches.shape[-1] for name in PARTS[self.row]]
        return first[0] if self.row == "sum" else sum(first), first[0]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """``[C]`` mean and variance over all tokens of all pictures."""
        count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for index in range(len(self)):
            rows = self.grid(index).flatten(0, 1).double()
            count += len(rows)
            total = total + rows.sum(0)
            square = square + rows.square().sum(0)
        mean = total / count
        return mean.float(), (square / count - mean.square()).clamp(min=0).float()
