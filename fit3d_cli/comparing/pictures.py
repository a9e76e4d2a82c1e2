"""What two models see in the same photos, in the same colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.backbones.drift import Drift, token_drift
from fit3d_cli.images import read_image, resize_image
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.viz import Panel, PcaBasis
from fit3d_cli.viz.clusters import Clusters
from fit3d_cli.viz.panels import Picture

T = TypeVar("T")


class Tokeniser(Protocol):
    """The part of a backbone that is needed here."""

    @property
    def patch_size(self) -> int:
        """Pixels per token side."""
        ...

    def tokens(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in 0..1 to ``[B, h, w, C]``."""
        ...

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        """``(width, height)`` that the backbone sees."""
        ...


@dataclass(frozen=True)
class Lens:
    """How one model's tokens become colours.

    Attributes:
        pca: Projection to three colours.
        clusters: k-means centroids.
    """

    pca: PcaBasis
    clusters: Clusters


@dataclass(frozen=True)
class ModelView:
    """One model's tokens of one picture, in colours on the token grid.

    Attributes:
        pca: ``[h, w, 3]`` in 0..1.
        clusters: ``[h, w, 3]`` in 0..1.
    """

    pca: Tensor
    clusters: Tensor


@dataclass(frozen=True)
class FeaturePicture:
    """One photo and what the models make of it.

    Attributes:
        name: Name to show.
        photo: ``[H, W, 3]`` in 0..1, as the backbone saw it.
        base: The first model.
        tuned: The second model.
        drift: None when the two models' tokens do not correspond.
    """

    name: str
    photo: Tensor
    base: ModelView
    tuned: ModelView
    drift: Drift | None

    def sheet(self, labels: tuple[str, str] = ("base", "tuned")) -> Picture:
        """Photo, PCA of both models, k-means of both models, side by side."""
        height, width = self.photo.shape[:2]
        panels = [Panel("photo", viz.to_uint8(self.photo))]
        panels += [
            Panel(f"{label}: PCA", enlarge(view.pca, width, height))
            for label, view in zip(labels, (self.base, self.tuned), strict=True)
        ]
        panels += [
            Panel(f"{label}: k-means", enlarge(view.clusters, width, height, hard=True))
            for label, view in zip(labels, (self.base, self.tuned), strict=True)
        ]
        return viz.side_by_side(panels, title=self.name)


def enlarge(rgb: Tensor, width: int, height: int, *, hard: bool = False) -> Picture:
    """Token-grid colours ``[h, w, 3]`` to an 8-bit picture; ``hard`` keeps cells visible."""
    return viz.to_uint8(viz.upsample(rgb, height, width, "nearest" if hard else "bicubic"))


def compare_pictures(
    images: Sequence[Path],
    base: Tokeniser,
    tuned: Tokeniser,
    *,
    width: int,
    batch: int,
    clusters: int,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> tuple[FeaturePicture, ...]:
    """Look at photos through two models.

    Args:
        images: Photos, at least one.
        base: The first model.
        tuned: The second model.
        width: Width in pixels of what the models see, before rounding to patches.
        batch: Photos per forward pass.
        clusters: k of k-means.
        names: What to call the photos; default: their file names.
        groups: Which photos belong together, e.g. the scene of each; default: all do.
        seed: Of k-means.
        on_event: Progress listener.

    Returns:
        One picture per photo. One PCA basis and one set of centroids serve all photos of a
        group and, if their tokens have equally many channels, both models.

    Raises:
        ImageError: A photo cannot be read.
    """
    total = 2 * len(images)
    seen: list[list[Tensor]] = []
    for index, model in enumerate((base, tuned)):
        seen.append([])
        for tokens in tokens_of(images, model, width=width, batch=batch):
            seen[-1].append(tokens)
            done = index * len(images) + len(seen[-1])
            on_event(Progress("features", done, total))
    labels = names or [path.name for path in images]
    members = groups or [""] * len(images)
    fitted = {
        group: lenses(
            [[t for t, g in zip(maps, members, strict=True) if g == group] for maps in seen],
            clusters=clusters,
            seed=seed,
        )
        for group in dict.fromkeys(members)
    }
    return tuple(
        FeaturePicture(
            label,
            photo_of(path, base, width),
            look(a, fitted[group][0]),
            look(b, fitted[group][1]),
            token_drift(a, b),
        )
        for label, path, group, a, b in zip(labels, images, members, *seen, strict=True)
    )


def lenses(seen: Sequence[Sequence[Tensor]], *, clusters: int, seed: int) -> list[Lens]:
    """One lens per model, see ``shared``.

    Args:
        seen: For each model the token maps ``[h, w, C]``.
        clusters: k of k-means.
        seed: Of the row samples and of k-means.
    """
    bases = shared(seen, lambda groups: viz.fit_pca(groups, seed=seed))
    groups = shared(seen, lambda groups: viz.kmeans(torch.cat(groups), clusters, seed=seed))
    return [Lens(pca, found) for pca, found in zip(bases, groups, strict=True)]


def shared(seen: Sequence[Sequence[Tensor]], fit: Callable[[list[Tensor]], T]) -> list[T]:
    """Fit once for all models where their channels correspond, else once for each.

    Args:
        seen: For each model the token maps ``[h, w, C]``.
        fit: Takes ``[M, C]`` rows, one tensor per model.

    Returns:
        One result per model.
    """
    groups = [torch.cat([tokens.flatten(0, 1) for tokens in maps]) for maps in seen]
    if len({group.shape[1] for group in groups}) == 1:
        return [fit(groups)] * len(groups)
    return [fit([group]) for group in groups]


def look(tokens: Tensor, lens: Lens) -> ModelView:
    """Tokens ``[h, w, C]`` through a lens."""
    return ModelView(lens.pca(tokens), lens.clusters(tokens))


def tokens_of(
    images: Sequence[Path], model: Tokeniser, *, width: int, batch: int
) -> Iterator[Tensor]:
    """Token maps ``[h, w, C]`` on the CPU in float32, in the order of ``images``.

    Consecutive photos of one size share a forward pass.

    Raises:
        ImageError: A photo cannot be read.
    """
    waiting: list[Tensor] = []
    for path in images:
        photo = photo_of(path, model, width).permute(2, 0, 1)
        if waiting and (len(waiting) == batch or photo.shape != waiting[0].shape):
            yield from _forward(model, waiting)
            waiting = []
        waiting.append(photo)
    if waiting:
        yield from _forward(model, waiting)


def _forward(model: Tokeniser, photos: Sequence[Tensor]) -> Iterator[Tensor]:
    with torch.inference_mode():
        tokens = model.tokens(torch.stack(list(photos))).float().cpu()
    # A tensor born in inference mode may not meet autograd later; a copy may.
    yield from tokens.clone()


def photo_of(path: Path, model: Tokeniser, width: int) -> Tensor:
    """``[H, W, 3]`` in 0..1: a photo at the size at which ``model`` sees it.

    Raises:
        ImageError: It cannot be read.
    """
    image = read_image(path)
    return resize_image(image, *model.input_size(image.shape[1], image.shape[0], width))
