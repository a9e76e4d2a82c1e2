"""Frozen features of a split: one or two backbones side by side, read where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel, Tokens, all_tokens
from fit3d_cli.errors import SettingsError
from fit3d_cli.shapes import check_dims

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
    """Features of a row of the report: the channels of its backbones, one after the other.

    Nothing is scaled or normalised before concatenation (FiT3D's assembly).

    Attributes:
        stores: One (base or tuned) or two (concat) stores of the same pictures.
        with_cls: Append the first backbone's class token to every patch token.
    """

    stores: tuple[TokenStore, ...]
    with_cls: bool = False

    def __len__(self) -> int:
        return len(self.stores[0])

    def grid(self, index: int) -> Tensor:
        """``[h, w, C]`` float32 of a picture, on the CPU.

        Raises:
            SettingsError: The backbones have different patch sizes.
        """
        parts = [store[index].patches for store in self.stores]
        self._require_one_grid(parts)
        if self.with_cls:
            parts.append(self.stores[0][index].cls.expand(*parts[0].shape[:2], -1))
        return torch.cat(parts, dim=-1).float()

    def at(self, index: int, places: Tensor) -> Tensor:
        """Bilinear features at places of a picture, ``[P, C]`` float32.

        Args:
            index: The picture.
            places: ``[P, 2]`` x and y in 0..1 of the picture's width and height.
        """
        parts = [store[index].patches for store in self.stores]
        self._require_one_grid(parts)
        values = [interpolate(part, places) for part in parts]
        if self.with_cls:
            values.append(self.stores[0][index].cls.float().expand(len(places), -1))
        return torch.cat(values, dim=-1)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """``[C]`` mean and standard deviation over all tokens of all pictures."""
        count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for index in range(len(self)):
            rows = self.grid(index).flatten(0, 1).double()
            count += len(rows)
            total = total + rows.sum(0)
            square = square + rows.square().sum(0)
        mean = total / count
        variance = (square / count - mean.square()).clamp(min=0)
        return mean.float(), (variance + 1e-5).sqrt().float()  # BatchNorm's epsilon

    @staticmethod
    def _require_one_grid(parts: Sequence[Tensor]) -> None:
        if any(part.shape[:2] != parts[0].shape[:2] for part in parts):
            raise SettingsError(
                "base and tuned have different token grids",
                where="--models concat",
                hint="concatenate a backbone with a model tuned from it",
            )


def interpolate(grid: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of a token grid, the border repeated outwards.

    The same geometry as ``torch.nn.functional.interpolate(mode="bilinear")``: token (i, j) lies at
    the centre of its patch.

    Args:
        grid: ``[h, w, C]`` of any float type.
        places: ``[P, 2]`` x and y in 0..1 of the width and height.

    Returns:
        ``[P, C]`` float32.
    """
    sizes = check_dims(grid=(grid, "h w C"), places=(places, "P 2"))
    height, width = sizes["h"], sizes["w"]
    x = (places[:, 0] * width - 0.5).clamp(0, width - 1)
    y = (places[:, 1] * height - 0.5).clamp(0, height - 1)
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fx, fy = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    rows = grid.reshape(height * width, -1)

    def pick(line: Tensor, column: Tensor) -> Tensor:
        return rows.index_select(0, line * width + column).float()

    upper = torch.lerp(pick(top, left), pick(top, right), fx)
    lower = torch.lerp(pick(bottom, left), pick(bottom, right), fx)
    return torch.lerp(upper, lower, fy)
