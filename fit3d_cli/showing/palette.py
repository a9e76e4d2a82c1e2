"""How the tokens of one or two models become pictures, in colours that all pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.viz import Clusters, Foreground, Panel, PcaBasis
from fit3d_cli.viz.colours import UNKNOWN
from fit3d_cli.viz.enlarging import Upscale
from fit3d_cli.viz.sharing import shared

Method = Literal["pca", "kmeans", "similarity"]

# Rows that k-means looks at: it works in double precision and compares each with each centroid.
_KMEANS_ROWS = 40_000
_SOFT = 0.25  # standard deviations over which the foreground's edge fades
_HEAT = 0.8  # share of the heat colours; the rest is the photo in grey


@dataclass(frozen=True)
class Look:
    """What is to be seen.

    Attributes:
        method: How features become colours.
        clusters: k of k-means.
        foreground: Cut the background away and fit the colours to the rest.
        upscale: How token grids become pictures.
        seed: Of the fits.
    """

    method: Method = "pca"
    clusters: int = 6
    foreground: bool = False
    upscale: Upscale = "smooth"
    seed: int = 0

    @property
    def title(self) -> str:
        """For captions."""
        names = {"pca": "PCA", "kmeans": "k-means", "similarity": "similarity"}
        return names[self.method] + (" of the foreground" if self.foreground else "")


@dataclass(frozen=True)
class Heat:
    """Cosine to one token.

    Attributes:
        query: ``[C]``.
        low: Cosine of the darkest colour.
        high: Cosine of the brightest colour.
    """

    query: Tensor
    low: float = 0.0
    high: float = 1.0

    def cosine(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` to ``[...]``."""
        return torch.nn.functional.cosine_similarity(tokens, self.query, dim=-1)


_Paint: TypeAlias = PcaBasis | Clusters | Heat


@dataclass(frozen=True)
class Palette:
    """One way to paint per model.

    Attributes:
        labels: What the models are called.
        look: What is to be seen.
        paints: One per model.
        cuts: Foreground per model; empty without.
        same_grid: Whether the models' tokens lie at the same places.
    """

    labels: tuple[str, ...]
    look: Look
    paints: tuple[_Paint, ...]
    cuts: tuple[Foreground, ...] = ()
    same_grid: bool = True

    def panels(self, tokens: Sequence[Tensor], photo: Tensor) -> list[Panel]:
        """A picture per model.

        Args:
            tokens: For each model ``[h, w, C]`` of the photo.
            photo: ``[H, W, 3]`` in 0..1.
        """
        covers = self._covers(tokens, photo)
        panels = []
        for label, paint, seen, cover in zip(self.labels, self.paints, tokens, covers, strict=True):
            rgb = self._rgb(paint, seen, photo)
            if cover is not None:
                rgb = cover * rgb + (1 - cover) * torch.tensor(UNKNOWN)
            what = self.look.title
            if isinstance(paint, Heat):
                what = f"cosine {paint.low:.2f} to {paint.high:.2f}"
            # One model needs no name under each of its pictures.
            caption = f"{label}: {what}" if len(self.labels) > 1 else what
            panels.append(Panel(caption, viz.to_uint8(rgb)))
        return panels

    def _rgb(self, paint: _Paint, tokens: Tensor, photo: Tensor) -> Tensor:
        mode = self.look.upscale
        if isinstance(paint, PcaBasis):
            return viz.enlarge_values(paint(tokens), photo, mode).clamp(0, 1)
        if isinstance(paint, Clusters):
            count = len(paint.centroids)
            labels = viz.enlarge_labels(paint.assign(tokens), count, photo, mode)
            return viz.label_map(labels, viz.distinct_colours(count))
        cosine = viz.enlarge_values(paint.cosine(tokens)[..., None], photo, mode)[..., 0]
        heat = viz.heat_to_rgb(cosine, paint.low, paint.high)
        grey = photo @ torch.tensor([0.2126, 0.7152, 0.0722])
        return _HEAT * heat + (1 - _HEAT) * grey[..., None]

    def _covers(self, tokens: Sequence[Tensor], photo: Tensor) -> list[Tensor | None]:
        """How much of each pixel is foreground, ``[H, W, 1]`` in 0..1; None shows everything."""
        if not self.cuts:
            return [None] * len(tokens)
        covers: list[Tensor | None] = []
        for index, (cut, seen) in enumerate(zip(self.cuts, tokens, strict=True)):
            if index and self.same_grid:
                # The same tokens for every model: else two pictures differ by their masks alone.
                covers.append(covers[0])
                continue
            score = viz.enlarge_values(cut.score(seen)[..., None], photo, self.look.upscale)
            covers.append((score / _SOFT + 0.5).clamp(0, 1))
        return covers


def fit_palette(
    labels: Sequence[str],
    seen: Sequence[Sequence[Tensor]],
    look: Look,
    queries: Sequence[Tensor] = (),
) -> Palette:
    """Fit colours to a sample of the pictures.

    Args:
        labels: What the models are called.
        seen: For each model the token maps ``[h, w, C]`` of the same pictures.
        look: What is to be seen.
        queries: For ``similarity``: each model's token ``[C]`` at the point.

    Returns:
        Colours for all pictures and, where channels correspond, for all models.
    """
    names = tuple(labels)
    if look.method == "similarity":
        return Palette(names, look, _heats(seen, queries))
    grids = [[tokens.shape[:2] for tokens in maps] for maps in seen]
    same_grid = all(grid == grids[0] for grid in grids)
    cuts: tuple[Foreground, ...] = ()
    if look.foreground:
        cuts = tuple(viz.find_foreground(maps, seed=look.seed) for maps in seen)
        seen = _front(seen, cuts, same_grid)
    paints: list[PcaBasis] | list[Clusters]
    if look.method == "pca":
        paints = shared(seen, lambda groups: viz.fit_pca(groups, seed=look.seed))
    else:
        paints = shared(
            seen,
            lambda groups: viz.kmeans(_sample(groups, look.seed), look.clusters, seed=look.seed),
        )
    return Palette(names, look, tuple(paints), cuts, same_grid)


def _front(
    seen: Sequence[Sequence[Tensor]], cuts: Sequence[Foreground], same_grid: bool
) -> list[list[Tensor]]:
    """Foreground rows of every map; everything where a model has hardly any."""
    chosen: list[list[Tensor]] = []
    for index, maps in enumerate(seen):
        owner = 0 if same_grid else index
        masks = [cuts[owner](tokens) for tokens in seen[owner]]
        rows = [tokens[mask] for tokens, mask in zip(maps, masks, strict=True)]
        enough = sum(map(len, rows)) > 3
        chosen.append(rows if enough else [tokens.flatten(0, 1) for tokens in maps])
    return chosen


def _sample(groups: Sequence[Tensor], seed: int) -> Tensor:
    """``[M, C]`` rows of all models, at most ``_KMEANS_ROWS``."""
    rows = torch.cat(list(groups))
    if len(rows) <= _KMEANS_ROWS:
        return rows
    picks = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[picks[:_KMEANS_ROWS].sort().values]


def _heats(seen: Sequence[Sequence[Tensor]], queries: Sequence[Tensor]) -> tuple[Heat, ...]:
    """One range for all models: from the median cosine to (almost) the highest."""
    heats = [Heat(query) for query in queries]
    values = torch.cat([
        heat.cosine(tokens).flatten()
        for heat, maps in zip(heats, seen, strict=True)
        for tokens in maps
    ])  # fmt: skip
    ordered = values[torch.isfinite(values)].sort().values
    low, high = float(ordered[len(ordered) // 2]), float(ordered[int(0.999 * (len(ordered) - 1))])
    return tuple(Heat(heat.query, low, max(high, low + 1e-3)) for heat in heats)
