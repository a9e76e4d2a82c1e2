"""What each layer of the viewer paints: one colour per Gaussian."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.geometry.gaussians import SH_C0
from fit3d_cli.rendering import scene_pca
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.seen import seen_features
from fit3d_cli.viewer.similarity import Codes, feature_at, make_codes

Layer = Literal["rgb", "pca", "kmeans", "depth", "similarity"]
LAYERS: tuple[Layer, ...] = ("rgb", "pca", "kmeans", "depth", "similarity")

_FIT_ROWS = 20_000  # enough for k-means; the rest is assigned
_SOLID = 0.3  # opacity from which a Gaussian counts when clusters are found
# Most of a scene resembles a query a little: the middle of the scores is dark, the best bright.
_DARK, _BRIGHT = 0.5, 0.998


class Painter:
    """Colours of a scene, each computed when it is first asked for.

    Args:
        scene: What is shown.
        seed: Of k-means.
    """

    def __init__(self, scene: Scene, *, seed: int = 0) -> None:
        self.scene = scene
        self.seed = seed
        self._clusters: dict[int, Tensor] = {}

    @cached_property
    def rgb(self) -> Tensor:
        """``[N, 3]`` in 0..1: the part of the colour that is the same from all sides."""
        return (self.scene.gaussians.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1).cpu()

    @cached_property
    def features(self) -> Tensor:
        """``[N, d]`` features as the views see them, see ``seen_features``."""
        return seen_features(self.scene)

    @cached_property
    def pca(self) -> Tensor:
        """``[N, 3]`` in 0..1, in the colours of ``fit3d render --what pca``."""
        basis = scene_pca(self.scene)
        return basis(self.features).cpu()

    def kmeans(self, clusters: int) -> Tensor:
        """``[N, 3]`` in 0..1: a colour for each of ``clusters`` groups of features."""
        return viz.distinct_colours(clusters)[self.classes(clusters)]

    def classes(self, clusters: int) -> Tensor:
        """``[N]`` int64: the group of each Gaussian, the largest first; cf. ``kmeans``."""
        if clusters not in self._clusters:
            features = self.features
            solid = (self.scene.gaussians.opacities.cpu() >= _SOLID).nonzero()[:, 0]
            chosen = solid if len(solid) >= clusters else torch.arange(len(features))
            draw = torch.Generator().manual_seed(self.seed)
            chosen = chosen[torch.randperm(len(chosen), generator=draw)[:_FIT_ROWS]]
            found = viz.kmeans(features[chosen.sort().values], clusters, seed=self.seed)
            self._clusters[clusters] = found.assign(features)
        return self._clusters[clusters]

    def depth(self, viewmat: Tensor) -> Tensor:
        """``[N, 3]`` in 0..1: near is bright.

        Args:
            viewmat: ``[4, 4]`` world to camera, OpenCV axes.
        """
        means = self.scene.gaussians.means.double().cpu()
        depths = means @ viewmat[2, :3].double() + viewmat[2, 3].double()
        solid = (self.scene.gaussians.opacities.cpu() >= _SOLID) & (depths > 0)
        return viz.depth_to_rgb(depths.clamp(min=1e-6)[:, None], near=_low(depths[solid], 0.01),
                                far=_low(depths[solid], 0.99))[:, 0]  # fmt: skip

    def heat(self, scores: Tensor) -> Tensor:
        """``[N, 3]`` in 0..1 for scores ``[N]``: the lower half dark, the best bright."""
        ordered = scores.double().sort().values
        last = len(ordered) - 1
        low, high = (float(ordered[round(share * last)]) for share in (_DARK, _BRIGHT))
        shown = ((scores.double() - low) / max(high - low, 1e-9)).clamp(0, 1)
        return viz.error_to_rgb(shown.cpu()[:, None], high=1.0)[:, 0]

    @cached_property
    def codes(self) -> Codes:
        """For cosines with a query."""
        return make_codes(self.features, self.scene.decoder)

    def code_at(self, point: Tensor) -> Tensor:
        """``[r]`` code of what is at a point ``[3]`` of the world."""
        found = feature_at(self.scene.gaussians.to("cpu"), self.features, point)
        return self.codes.encode(found[None])[0]


def _low(values: Tensor, share: float) -> float | None:
    if not len(values):
        return None
    found = float(values.sort().values[round(share * (len(values) - 1))])
    return found if math.isfinite(found) and found > 0 else None
