"""A scene being looked at: what is drawn, what is looked for. Knows nothing of browsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from fit3d_cli.scene import Scene
from fit3d_cli.viewer.layers import Painter
from fit3d_cli.viewer.look import Look
from fit3d_cli.viewer.picking import Hit, pick
from fit3d_cli.viewer.similarity import point_scores
from fit3d_cli.viewer.thinning import display_subset

Mode = Literal["find", "add", "subtract"]


class TextScorer(Protocol):
    """What finds words in a scene."""

    def scores(self, text: str) -> Tensor:
        """``[N]`` relevancy of each Gaussian."""
        ...


class Session:
    """One scene on show.

    Args:
        scene: The scene; it is used on the CPU.
        look: How it is shown first; changed in place.
        most: Splats to draw; queries always use all.
        seed: Of k-means.
        make_text: Makes what finds words from features ``[N, d]``, when first needed.

    Attributes:
        scene: The scene, on the CPU.
        look: What is shown.
        painter: Its colours.
        drawn: ``[M]`` int64 indices of the Gaussians that are drawn.
    """

    def __init__(
        self,
        scene: Scene,
        look: Look,
        *,
        most: int,
        seed: int = 0,
        make_text: Callable[[Tensor], TextScorer] | None = None,
    ) -> None:
        self.scene = scene.to("cpu")
        self.look = look
        self.painter = Painter(self.scene, seed=seed)
        self.drawn = display_subset(self.scene.gaussians, most)
        self._make_text = make_text
        self._text: TextScorer | None = None
        self._scored: tuple[object, Tensor] | None = None

    @property
    def knows_text(self) -> bool:
        """Whether words can be looked for."""
        return self._make_text is not None

    def scores(self) -> Tensor | None:
        """``[N]`` how much each Gaussian is like what is looked for, None if nothing is.

        Raises:
            Fit3dError: Words are looked for and their model cannot be read.
        """
        look = self.look
        if not look.queried:
            return None
        key = (look.text, tuple(tuple(p.tolist()) for p in look.positives),
               tuple(tuple(p.tolist()) for p in look.negatives))  # fmt: skip
        if self._scored is None or self._scored[0] != key:
            self._scored = (key, self._score())
        return self._scored[1]

    def _score(self) -> Tensor:
        look, painter = self.look, self.painter
        if look.text and self._make_text is not None:
            if self._text is None:
                self._text = self._make_text(painter.features)
            return self._text.scores(look.text)
        positives = [painter.code_at(point) for point in look.positives]
        negatives = [painter.code_at(point) for point in look.negatives]
        return point_scores(painter.codes, positives, negatives)

    def colours(self, viewmat: Tensor) -> Tensor:
        """``[M, 3]`` in 0..1 of what is drawn.

        Args:
            viewmat: ``[4, 4]`` world to camera, for the depth layer.

        Raises:
            Fit3dError: As ``scores``.
        """
        return self.all_colours(viewmat)[self.drawn]

    def all_colours(self, viewmat: Tensor) -> Tensor:
        """``[N, 3]`` in 0..1 of all Gaussians, see ``colours``."""
        painter, layer = self.painter, self.look.layer
        if layer == "pca":
            return painter.pca
        if layer == "kmeans":
            return painter.kmeans(self.look.clusters)
        if layer == "depth":
            return painter.depth(viewmat)
        scores = self.scores() if layer == "similarity" else None
        return painter.rgb if scores is None else painter.heat(scores)

    def opacities(self) -> Tensor:
        """``[M]`` of what is drawn, 0 for those below the threshold."""
        opacities = self.scene.gaussians.opacities[self.drawn]
        return torch.where(opacities >= self.look.opacity, opacities, 0.0)

    def click(
        self, origin: Tensor, direction: Tensor, *, pixel: float = 0.0, mode: Mode = "find"
    ) -> Hit | None:
        """Look for what a ray meets.

        Args:
            origin: ``[3]`` start of the ray, in the world.
            direction: ``[3]``.
            pixel: Angle of a pixel, radians.
            mode: ``find`` starts anew, ``add`` looks for this too, ``subtract`` for what is
                unlike it.

        Returns:
            Where the ray ended, None if it met nothing; then nothing has changed.
        """
        gaussians = self.scene.gaussians
        shown = None
        if self.look.opacity > 0:  # what is hidden cannot be clicked at
            shown = (gaussians.opacities >= self.look.opacity).nonzero()[:, 0]
            gaussians = gaussians.select(shown)
        hit = pick(gaussians, origin, direction, pixel=pixel)
        if hit is None:
            return None
        if mode == "find":
            self.clear()
        self.look.text = ""
        (self.look.negatives if mode == "subtract" else self.look.positives).append(hit.point)
        self.look.layer = "similarity"
        return hit

    def find_text(self, text: str) -> None:
        """Look for words instead of points."""
        self.clear()
        self.look.text = text.strip()
        self.look.layer = "similarity"

    def clear(self) -> None:
        """Look for nothing."""
        self.look.positives.clear()
        self.look.negatives.clear()
        self.look.text = ""
