"""Tokens of many pictures, of which a bounded part is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import (
    TokenCache,
    TokenItem,
    TokenModel,
    Tokens,
    all_tokens,
    each_tokens,
)
from fit3d_cli.backbones.cache_room import require_cache_room
from fit3d_cli.tensorfile.overflow import Kept, Overflow


class TokenStore(Sequence[Tokens]):
    """Tokens of pictures by number, in memory as far as they fit.

    The others are read from the cache each time that they are asked for; without a cache they lie
    in a temporary file.

    Args:
        model: The backbone.
        items: The pictures.
        cache: Token cache, or None.
        batch: Pictures per forward pass.
        device: Where the backbone is.
        on_step: Called with pictures done and their total.
        memory: Bytes of tokens to hold at most.
        folder: Where the temporary file lies; None is the system's place.

    Raises:
        WeightsError: The tokens are not finite in half precision.
        StorageError: The disk refused.
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
        memory: int,
        folder: Path | None = None,
    ) -> None:
        self._model, self._items, self._cache, self._device = model, items, cache, device
        self._held: dict[int, tuple[Kept, Kept]] = {}
        if cache is not None:
            require_cache_room(model, items, cache)
        overflow = Overflow(folder, budget=memory)
        left = memory

        def take(index: int, tokens: Tokens) -> None:
            nonlocal left
            left -= 2 * (tokens.patches.numel() + tokens.cls.numel())
            if cache is None or left >= 0:
                self._held[index] = overflow.keep(tokens.patches), overflow.keep(tokens.cls)

        each_tokens(model, items, take, cache=cache, batch=batch, device=device, on_step=on_step)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        held = self._held.get(index)
        if held is not None:
            return Tokens(held[0].get(), held[1].get())
        item = self._items[index]
        return all_tokens(self._model, [item], cache=self._cache, batch=1, device=self._device)[0]


class Patches(Sequence[Tensor]):
    """The ``[h, w, C]`` patch tokens of a store's pictures, brought to a device one by one.

    Args:
        store: The tokens.
        device: Where they are wanted.
    """

    def __init__(self, store: TokenStore, device: torch.device | str) -> None:
        self._store, self._device = store, device

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._store[index].patches.to(self._device)
