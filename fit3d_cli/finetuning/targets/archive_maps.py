"""The archive's own features, rendered at token resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.finetuning.targets.cache import Made
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import Scene
from fit3d_cli.splat.weights import TokenWeights, view_token_weights
from fit3d_cli.tensorfile.overflow import Kept, KeptTable, Overflow


def camera_weights(scene: Scene, camera: Cameras, grid: tuple[int, int]) -> TokenWeights:
    """How much each Gaussian of a scene contributes to each cell of a grid over a picture.

    Args:
        scene: Its Gaussians' device does the work.
        camera: One camera, at the picture's size.
        grid: Rows and columns; they divide the picture.
    """
    width, height = map(int, camera.sizes[0].tolist())
    return view_token_weights(
        scene.gaussians, camera.viewmats[0], camera.Ks[0], width, height, *grid
    )


def archive_maps(
    targets: SceneTargets, scene: Scene, novel: Cameras | None, on_event: OnEvent
) -> Made:
    """Low-dimensional maps of all photos and rendered views, with the decoder.

    Args:
        targets: Which scene.
        scene: The scene, where its Gaussians are splatted.
        novel: Cameras of rendered views.
        on_event: Told about each view.

    Returns:
        ``v<i>`` and ``n<i>`` ``[h, w, d + 1]`` float16, ``dec.weight``, ``dec.bias``.
    """
    total = len(targets.views) + (0 if novel is None else len(novel))
    overflow = Overflow(targets.folder)
    maps: dict[str, Tensor | Kept] = {
        "dec.weight": scene.decoder.weight,
        "dec.bias": scene.decoder.bias,
    }
    done = 0
    for letter, cameras in (("v", targets.cameras), ("n", novel)):
        for index in range(0 if cameras is None else len(cameras)):
            on_event(Progress(f"{targets.name}: targets", done, total))
            assert cameras is not None
            weights = camera_weights(scene, cameras[index], targets.source.grid)
            rendered = [weights.apply(scene.features), weights.row_sums[..., None]]
            maps[f"{letter}{index}"] = overflow.keep(torch.cat(rendered, dim=-1).half().cpu())
            done += 1
    on_event(Progress(f"{targets.name}: targets", total, total))
    return KeptTable(maps), {}
