"""Who looks, and the sample of pictures that colours are fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

from torch import Tensor

from fit3d_cli.backbones.looking import Photo, Tokeniser, photo_of, tokens_of
from fit3d_cli.capture.photos import spread_over
from fit3d_cli.progress import OnEvent, Progress, ignore

# Colours are fitted on evenly spread photos, no more than these and no more tokens than that.
MAX_FIT = 96
FIT_BYTES = 256 << 20


@dataclass(frozen=True)
class Viewer:
    """Who looks.

    Attributes:
        models: Labels and backbones, the base first.
        width: Width in pixels of what they see, before rounding to patches.
        batch: Photos per forward pass.
    """

    models: Sequence[tuple[str, Tokeniser]]
    width: int
    batch: int

    @property
    def labels(self) -> tuple[str, ...]:
        """What the models are called."""
        return tuple(label for label, _ in self.models)

    def look(self, images: Iterable[Photo]) -> Iterator[list[Tensor]]:
        """Each image's token maps ``[h, w, C]``, one per model, one image after the other."""
        copies = tee(images, len(self.models))
        streams = [
            tokens_of(copy, model, width=self.width, batch=self.batch)
            for copy, (_, model) in zip(copies, self.models, strict=True)
        ]
        for maps in zip(*streams, strict=True):
            yield list(maps)

    def photo(self, image: Photo) -> Tensor:
        """``[H, W, 3]`` in 0..1 as the first model sees it."""
        return photo_of(image, self.models[0][1], self.width)


def sample_tokens(
    images: Sequence[Path], viewer: Viewer, on_event: OnEvent = ignore
) -> dict[int, list[Tensor]]:
    """Token maps of some evenly spread images, so few that they fit into ``FIT_BYTES``.

    Args:
        images: At least one; what the first one needs stands for all.
        viewer: The models.
        on_event: Progress listener.

    Returns:
        Index of the image to its token maps, one per model.
    """
    first = next(viewer.look(images[:1]))
    size = sum(tokens.nbytes for tokens in first)
    places = spread_over(len(images), min(MAX_FIT, max(1, FIT_BYTES // size)))
    kept: dict[int, list[Tensor]] = {0: first} if 0 in places else {}
    todo = [place for place in places if place not in kept]
    for place, maps in zip(todo, viewer.look([images[i] for i in todo]), strict=True):
        kept[place] = maps
        on_event(Progress("features", len(kept), len(places)))
    if not todo:
        on_event(Progress("features", 1, 1))
    return kept
