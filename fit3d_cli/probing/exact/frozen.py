"""Frozen backbones on pictures of any size, with the published padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fit3d_cli.backoff import Backoff
from fit3d_cli.errors import SettingsError
from fit3d_cli.probing.assembly import PARTS, assemble


class DenseModel(Protocol):
    """What the published protocols need of a backbone; ``Backbone`` is one."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def identity(self) -> str:
        """Digest of all that decides the tokens."""
        ...

    mean: tuple[float, ...]
    patch_size: int

    def tokens_and_cls(self, images: Tensor, *, norm: bool = True) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` in 0..1 to ``[B, h, w, C]`` and ``[B, C]``."""
        ...


@dataclass(frozen=True)
class Frame:
    """Where a picture lies in the one that the backbone sees: centred, to a patch multiple.

    Attributes:
        height: Of the picture.
        width: Of the picture.
        patch: Patch size P.
    """

    height: int
    width: int
    patch: int

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width, multiples of P."""
        return -(-self.height // self.patch) * self.patch, -(-self.width // self.patch) * self.patch

    @property
    def offset(self) -> tuple[int, int]:
        """Rows above and columns to the left; an odd rest goes below and to the right."""
        height, width = self.padded
        return (height - self.height) // 2, (width - self.width) // 2

    def enlarge(self, grid: Tensor, *, cut: bool) -> Tensor:
        """``[B, K, h, w]`` values of tokens, bilinearly to ``[B, K, height, width]``.

        Args:
            grid: On the token grid, or on a finer one of the same extent.
            cut: Cut the padding out; else the padded grid is stretched over the picture, as
                published, which shifts values by up to half a patch.
        """
        size = self.padded if cut else (self.height, self.width)
        values = interpolate(grid, size=size, mode="bilinear", align_corners=False)
        if not cut:
            return values
        top, left = self.offset
        return values[..., top : top + self.height, left : left + self.width]


@dataclass(frozen=True)
class Seen:
    """Tokens of one picture by all models.

    Attributes:
        patches: ``[h, w, C]`` by model name.
        cls: ``[C]`` by model name.
    """

    patches: Mapping[str, Tensor]
    cls: Mapping[str, Tensor]

    def features(self, row: str, *, with_cls: bool) -> Tensor:
        """``[h, w, C]`` of a row; the class token is that of the row's first model.

        Raises:
            SettingsError: The models' tokens do not go together.
        """
        grid = assemble(row, self.patches)
        if not with_cls:
            return grid
        cls = self.cls[PARTS[row][0]]
        return torch.cat([grid, cls.expand(*grid.shape[:2], -1)], dim=-1)

    def widths(self, row: str) -> tuple[int, int]:
        """Channels of the assembled patch tokens, and of one model's."""
        one = self.patches[PARTS[row][0]].shape[-1]
        return assemble(row, self.patches).shape[-1], one


class Frozen:
    """Backbones that give tokens of pictures, a few pictures at a time.

    Args:
        models: By name, all of one patch size.
        device: Where they are.
        norm: Tokens after the final norm.
        batch: Pictures per forward pass.

    Raises:
        SettingsError: Different patch sizes, or a model without un-normed tokens.
    """

    def __init__(
        self,
        models: Mapping[str, DenseModel],
        *,
        device: str | torch.device,
        norm: bool,
        batch: int,
    ) -> None:
        sizes = {model.patch_size for model in models.values()}
        if len(sizes) > 1:
            raise SettingsError(
                "base and tuned have different token grids",
                where="--models",
                hint="use a model that was tuned from this base",
            )
        for name, model in models.items():
            if not norm and getattr(model, "adapter", None) is not None:
                raise SettingsError(
                    f"{name} ends in an adapter, which has no tokens before the final norm",
                    where="probe.preset parity",
                    hint="use preset fixed",
                )
        self.patch = sizes.pop()
        self._models, self._device, self._norm = models, device, norm
        self._backoff = Backoff("probe.backbone.batch", batch, device)

    def frame(self, height: int, width: int) -> Frame:
        """Where a picture of this size lies in what the backbones see."""
        return Frame(height, width, self.patch)

    @torch.no_grad()
    def see(self, pictures: Sequence[Tensor], frame: Frame) -> list[Seen]:
        """Tokens of pictures.

        Args:
            pictures: ``[3, h, w]`` in 0..1, at most as large as the frame; they lie at its top
                left.
            frame: Size that all are padded to, with what normalisation turns into 0, before the
                padding to a patch multiple.
        """
        patches: list[dict[str, Tensor]] = [{} for _ in pictures]
        cls: list[dict[str, Tensor]] = [{} for _ in pictures]
        top, left = frame.offset
        for name, model in self._models.items():
            mean = torch.tensor(model.mean)[None, :, None, None]

            def look(
                chunk: Sequence[Tensor], model: DenseModel = model, mean: Tensor = mean
            ) -> list[tuple[Tensor, Tensor]]:
                canvas = mean.repeat(len(chunk), 1, *frame.padded)
                for image, picture in zip(canvas, chunk, strict=True):
                    height, width = picture.shape[1:]
                    image[:, top : top + height, left : left + width] = picture
                grids, tokens = model.tokens_and_cls(canvas.to(self._device), norm=self._norm)
                return list(zip(grids.float(), tokens.float(), strict=True))

            for index, (grid, token) in enumerate(self._backoff.map(look, pictures)):
                patches[index][name], cls[index][name] = grid, token
        return [Seen(p, c) for p, c in zip(patches, cls, strict=True)]
