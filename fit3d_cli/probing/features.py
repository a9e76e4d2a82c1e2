"""Frozen features of a split: one or two backbones together, read where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel, Tokens, all_tokens
from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.probing.assembly import PARTS, assemble

# Tokens that are held in memory; beyond it they are read from the cache when needed.
MEMORY_BYTES = 1 << 30
_CHUNK = 64


class TokenStore:
    """Tokens of the pictures of a split, in memory as far as they fit.

    Args:
        model: The backbone.
        items: The pictures.
        cache: Token cache; None holds everything in memory.
        batch: Pictures per forward pass.
        device: Where the backbone is.
        on_step: Called with pictures done and their total.
        memory: Bytes to hold at most when there is a cache.
    """

    def __init__(
        self,
        model: TokenModel,
        items: Sequence[TokenItem],
        *,
        cache: TokenCache | None,
        batch: int,
        device: str | torch.device,
        on_step: Callable[[int, int], None] | None = None,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self._model, self._items, self._cache, self._device = model, items, cache, device
        self._held: list[Tokens | None] = []
        used = 0
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]

            def step(done: int, _: int, start: int = start) -> None:
                if on_step is not None:
                    on_step(start + done, len(items))

            keep = cache is None or used < memory
            made = all_tokens(model, chunk, cache=cache, batch=batch, device=device, on_step=step,
                              keep=keep)  # fmt: skip
            used += sum(2 * (t.patches.numel() + t.cls.numel()) for t in made)
            self._held += made if keep else [None] * len(chunk)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tokens:
        held = self._held[index]
        if held is not None:
            return held
        item = self._items[index]
        return all_tokens(self._model, [item], cache=self._cache, batch=1, device=self._device)[0]


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
