"""What two models see in the same photos, in the same colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.backbones.drift import Drift, token_drift
from fit3d_cli.backbones.looking import Tokeniser, photo_of, tokens_of
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.viz import Panel, PcaBasis
from fit3d_cli.viz.clusters import Clusters
from fit3d_cli.viz.panels import Picture
from fit3d_cli.viz.sharing import shared


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


def look(tokens: Tensor, lens: Lens) -> ModelView:
    """Tokens ``[h, w, C]`` through a lens."""
    return ModelView(lens.pca(tokens), lens.clusters(tokens))
