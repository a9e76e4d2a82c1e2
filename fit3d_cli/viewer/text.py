"""Words in a scene that was lifted from a CLIP.

A CLIP image embedding is the class token through ``visual.proj``. Patch tokens were never trained
to be read that way; sending them through the same projection is the approximation of MaskCLIP
(Zhou et al., ECCV 2022). The score is the relevancy of LERF (Kerr et al., ICCV 2023): the
probability of the words against each of four phrases that fit anything, the least of the four.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fit3d_cli.backbones.text import TextTower, load_text_tower, require_text
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.session import TextScorer
from fit3d_cli.viewer.similarity import affine

CANONICAL = ("object", "things", "stuff", "texture")
_SHARPNESS = 10.0  # of the softmax, as in LERF


def relevancy(wanted: Tensor, canonical: Tensor) -> Tensor:
    """LERF's relevancy.

    Args:
        wanted: ``[N]`` cosines with the words.
        canonical: ``[N, 4]`` cosines with the canonical phrases.

    Returns:
        ``[N]`` in 0..1: ``min_i exp(10 w) / (exp(10 w) + exp(10 c_i))``; 0.5 is as likely as
        anything.
    """
    against: Tensor = torch.sigmoid(_SHARPNESS * (wanted[:, None] - canonical))
    return against.amin(1)


class SceneText:
    """Relevancy of words for every Gaussian.

    Args:
        scene: What is searched.
        features: ``[N, d]`` its features, in the stored space.
        tower: Of the CLIP that they come from.
    """

    def __init__(self, scene: Scene, features: Tensor, tower: TextTower) -> None:
        self._tower = tower
        # Tokens of constant maps through the projection, cf. ``similarity``: E x (d + 1).
        matrix = tower.projection.double().T @ affine(scene.decoder)
        self._matrix = matrix.float()
        self._features = features.cpu()
        factor = torch.linalg.qr(matrix, mode="r").R.float()
        self._lengths = self._affine(factor).norm(dim=1).clamp(min=1e-12)
        self._canonical = self.cosines(tower.encode(CANONICAL))

    def _affine(self, matrix: Tensor) -> Tensor:
        return self._features @ matrix[:, :-1].T + matrix[:, -1]

    def cosines(self, embedded: Tensor) -> Tensor:
        """``[N, T]`` cosines with unit embeddings ``[T, E]``, in the joint space."""
        found: Tensor = self._affine(embedded @ self._matrix) / self._lengths[:, None]
        return found.clamp(-1, 1)

    def scores(self, text: str) -> Tensor:
        """``[N]`` relevancy of one text."""
        return relevancy(self.cosines(self._tower.encode([text]))[:, 0], self._canonical)


def find_text_tower(scene: Scene, weights: str) -> Callable[[Tensor], TextScorer]:
    """What makes the finder of words of a scene from its features ``[N, d]``.

    The weights are read when it is called.

    Args:
        scene: Whose features are searched.
        weights: Safetensors file of the whole CLIP.

    Raises:
        UnknownNameError: The scene's backbone has no text tower.
        WeightsError: No file is named.
    """
    timm_id = require_text(scene.source.backbone)
    quick = "quickgelu" in timm_id

    if not weights:
        load_text_tower("", dim=scene.source.dim, quick_gelu=quick)

    def make(features: Tensor) -> TextScorer:
        tower = load_text_tower(weights, dim=scene.source.dim, quick_gelu=quick)
        return SceneText(scene, features, tower)

    return make
