"""Tokens of the pictures of a matching task, assembled for each row of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel, image_digest, tokens_for
from fit3d_cli.errors import UnknownNameError
from fit3d_cli.images import read_image, resize_image
from fit3d_cli.probing.assembly import PARTS, assemble
from fit3d_cli.probing.tasks.base import Question
from fit3d_cli.settings import ProbeSettings


def require_name(question: Question, name: str, described: str) -> None:
    """Check that the task is asked about the one dataset that it knows.

    Raises:
        UnknownNameError: Another name.
    """
    if question.dataset != name:
        raise UnknownNameError(
            f"unknown dataset {question.dataset!r}",
            where=f"probe {question.task}",
            hint=f"use {name} ({described})",
        )


def chosen_width(settings: ProbeSettings, published: int) -> int:
    """Wanted width of the pictures: ``probe.backbone.width`` where it is set, else the task's.

    Args:
        settings: As resolved; a setting that was given counts even if it equals the default.
        published: What the published protocol takes.
    """
    given = "backbone" in settings.model_fields_set and (
        "width" in settings.backbone.model_fields_set
    )
    return settings.backbone.width if given else published


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices (0: all), evenly spread from the first on."""
    if not most or most >= count:
        return list(range(count))
    return [index * count // most for index in range(most)]


@dataclass(frozen=True)
class RowTokens:
    """The models of a report, and how their tokens become the features of its rows.

    Attributes:
        models: By name, on ``question.device``.
        question: Rows, cache, batch size, device.
    """

    models: Mapping[str, TokenModel]
    question: Question

    @property
    def rows(self) -> tuple[str, ...]:
        """Rows of the report, in order."""
        return tuple(self.question.settings.models)

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        """Size at which all models see a picture of this size."""
        first = next(iter(self.models.values()))
        return first.input_size(width, height, target_width)

    def grids(self, items: Sequence[TokenItem]) -> Iterator[dict[str, Tensor]]:
        """Row name to ``[h, w, C]`` float32 features on the device, picture by picture.

        Raises:
            SettingsError: Base and tuned do not go together.
            WeightsError: Tokens that are not finite.
            StorageError: The cache cannot be written.
        """
        tokens = self._tokens(items)
        for index in range(len(items)):
            one = {name: self._single(made[index]) for name, made in tokens.items()}
            yield {
                row: assemble(row, {part: one[part] for part in PARTS[row]}) for row in self.rows
            }

    def videos(
        self, items: Sequence[TokenItem], on_step: Callable[[int, int], None]
    ) -> Iterator[tuple[str, Tensor]]:
        """Row name and ``[T, h, w, C]`` features of pictures of one size, one row at a time.

        The rows of a long video would not fit into memory together.

        Args:
            items: The frames.
            on_step: Called with the frames that a model has seen and their total.

        Raises:
            SettingsError: As ``grids``, as the other two.
        """
        tokens = {name: torch.stack(made) for name, made in self._tokens(items, on_step).items()}
        for row in self.rows:
            yield row, assemble(row, {part: self._single(tokens[part]) for part in PARTS[row]})

    def _tokens(
        self, items: Sequence[TokenItem], on_step: Callable[[int, int], None] | None = None
    ) -> dict[str, list[Tensor]]:
        question = self.question
        cache = None if question.cache_dir is None else TokenCache(question.cache_dir)
        return {
            name: tokens_for(
                model, items, cache=cache, batch=question.settings.backbone.batch,
                device=question.device, on_step=on_step,
            )
            for name, model in self.models.items()
        }  # fmt: skip

    def _single(self, tokens: Tensor) -> Tensor:
        # Half precision is how tokens are kept; all that follows is computed in single.
        return tokens.to(self.question.device).float()


def photo_item(path: Path, size: tuple[int, int]) -> TokenItem:
    """A photo, resized whole to ``(width, height)``."""
    return TokenItem(
        image_digest(path), size, lambda: resize_image(read_image(path), size[0], size[1])
    )


@dataclass(frozen=True)
class Letterbox:
    """A picture shrunk or enlarged to a square, centred on black.

    Attributes:
        side: Side of the square, pixels.
        width: Width of the resized picture in it.
        height: Height of the resized picture in it.
        scale: New pixels per stored pixel (along the long side).
    """

    side: int
    width: int
    height: int
    scale: float

    @staticmethod
    def of(width: int, height: int, side: int) -> Letterbox:
        """The letterbox of a picture of this stored size."""
        scale = side / max(width, height)
        return Letterbox(side, max(1, round(width * scale)), max(1, round(height * scale)), scale)

    @property
    def offset(self) -> tuple[int, int]:
        """Left and top of the picture in the square, pixels."""
        return (self.side - self.width) // 2, (self.side - self.height) // 2

    def place(self, points: Tensor) -> Tensor:
        """``[K, 2]`` stored pixels to pixels of the square."""
        return points * self.scale + torch.tensor(self.offset, dtype=points.dtype)

    def item(self, path: Path) -> TokenItem:
        """The boxed picture as what a backbone sees."""

        def load() -> Tensor:
            square = torch.zeros(self.side, self.side, 3)
            left, top = self.offset
            resized = resize_image(read_image(path), self.width, self.height)
            square[top : top + self.height, left : left + self.width] = resized
            return square

        recipe = f"letterbox {self.side} on black"
        return TokenItem(image_digest(path, recipe), (self.side, self.side), load)
