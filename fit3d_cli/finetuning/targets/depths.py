"""A depth map per photo: measured where the capture has one, else rendered.

Depths are kept at half the picture's size, several cells to a token: a correspondence is known to
within two pixels, and a map is a few dozen kilobytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.capture.base import View
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.errors import SettingsError
from fit3d_cli.finetuning.targets.cache import Made
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import Scene
from fit3d_cli.splat.rasterize import rasterize
from fit3d_cli.tensorfile.overflow import KeptTable, Overflow

_HIT = 0.5  # alpha below which a pixel shows nothing in particular
# Relative deviation of depth along a ray above which the mean lies between surfaces. On a room with
# measured depth this drops 3 % of the pixels, among them a fifth of those off by more than 5 %.
_SPREAD = 0.2


def check_depths(targets: SceneTargets, depth: str) -> None:
    """Whether every photo has the depth that is asked for.

    Args:
        targets: Which scene.
        depth: ``finetune.pairs.depth``.

    Raises:
        SettingsError: The capture's was asked for and is not there.
    """
    missing = [view.name for view in targets.views if view.depth_path is None]
    if depth == "capture" and missing:
        raise SettingsError(
            f"{len(missing)} photos of {targets.name} have no depth, e.g. {missing[0]}",
            where="finetune.pairs.depth",
            hint="use auto or rendered",
        )


def depth_maps(targets: SceneTargets, scene: Scene, depth: str, on_event: OnEvent) -> Made:
    """The depth of every photo at half the picture's size.

    Args:
        targets: Which scene.
        scene: The scene, where its Gaussians are splatted.
        depth: ``auto`` (the capture's where there is one), ``capture`` or ``rendered``.
        on_event: Told about each view.

    Returns:
        ``d<i>`` ``[h, w]`` float32 in world units, 0 = unknown or masked.
    """
    width, height = targets.source.width // 2, targets.source.height // 2
    overflow, maps = Overflow(targets.folder), {}
    for index, view in enumerate(targets.views):
        on_event(Progress(f"{targets.name}: depths", index, len(targets.views)))
        measured = depth != "rendered" and view.depth_path is not None
        known, mask = _photo(view, width, height, measured=measured)
        if not measured:
            known = rendered_depth(scene, targets.cameras[index].resized(width, height))
        maps[f"d{index}"] = overflow.keep(known * mask)
    on_event(Progress(f"{targets.name}: depths", len(targets.views), len(targets.views)))
    return KeptTable(maps), {}


def rendered_depth(scene: Scene, camera: Cameras) -> Tensor:
    """Expected depth given a hit, ``[H, W]`` on the CPU.

    0 where the scene covers too little, and where it is foggy or an edge: what a ray meets there
    lies at several depths, and their mean at none of them.

    Args:
        scene: Its Gaussians' device does the work.
        camera: One camera, at the size of the result.
    """
    g, viewmat = scene.gaussians, camera.viewmats[0]
    width, height = map(int, camera.sizes[0].tolist())
    axis = viewmat[2].to(g.means)
    z = g.means @ axis[:3] + axis[3]
    moments = torch.stack([z, z.square()], dim=1)
    with torch.no_grad():
        made = rasterize(
            g.means, g.quats, g.scales, g.opacities, moments, viewmat, camera.Ks[0], width, height
        )
    mean, square = (made.values / made.alphas.clamp_min(1e-6)[..., None]).unbind(-1)
    sharp = square - mean.square() <= (_SPREAD * mean).square()
    return torch.where((made.alphas >= _HIT) & sharp, mean, 0.0).cpu()


def _photo(view: View, width: int, height: int, *, measured: bool) -> tuple[Tensor, Tensor]:
    frame = load_frame(view, width, height, depth=measured)
    depth = frame.depth if frame.depth is not None else torch.zeros(height, width)
    return depth.float(), frame.mask
