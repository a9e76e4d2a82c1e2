"""Features as they are seen, which is what they were solved for."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.rendering import scaled_cameras
from fit3d_cli.scene import Scene
from fit3d_cli.splat.rasterize import view_weights

_VIEWS, _WIDTH = 24, 256
_GLIMPSE = 1e-3  # weight, in pixels, below which a Gaussian was not seen


def seen_features(scene: Scene, *, views: int = _VIEWS, width: int = _WIDTH) -> Tensor:
    """What each Gaussian looks like in the views, instead of what it stores.

    Lifting solves for features whose *renderings* are right; a single Gaussian, one of dozens
    behind a pixel, may store anything that the others even out. Its mean rendering,
    ``sum_p w_p F_p / sum_p w_p`` over the pixels p that it shares with weight w and where the
    features ``F = W f / alpha`` are rendered, is comparable with another's. Gaussians that no
    view shows keep what they store.

    Args:
        scene: Its Gaussians' device does the work.
        views: Training views at most, evenly spread.
        width: Of the renderings, pixels.

    Returns:
        ``[N, d]`` float32 on the CPU.
    """
    chosen = scene.views(heldout=False) or list(range(len(scene.names)))
    chosen = chosen[:: max(1, -(-len(chosen) // views))]
    sums = torch.zeros_like(scene.features)
    weights = scene.features.new_zeros(len(scene.features), 1)
    for camera in scaled_cameras(scene.cameras[chosen], width):
        columns, rows = map(int, camera.sizes[0].tolist())
        seen = view_weights(scene.gaussians, camera.viewmats[0], camera.Ks[0], columns, rows)
        alphas = seen.alphas[..., None]
        maps = seen.apply(scene.features) / alphas.clamp(min=1e-3)
        sums += seen.apply_t(maps)
        weights += seen.apply_t((alphas > 0).to(maps))
    means = sums / weights.clamp(min=1e-12)
    return torch.where(weights > _GLIMPSE, means, scene.features).cpu()
