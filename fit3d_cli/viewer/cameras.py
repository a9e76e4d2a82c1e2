"""Where the viewer starts, and how cameras pass between fit3d and the browser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.geometry.rotations import look_at as matrices_looking_at
from fit3d_cli.scene import Scene

_MANY = 64  # cameras that are looked at when a start is chosen
_SOLID = 0.3


@dataclass(frozen=True)
class Start:
    """A camera to begin with.

    Attributes:
        view: Index of the view that it is.
        position: ``[3]`` centre in the world.
        look_at: ``[3]`` what lies before it at the scene's typical depth.
        up: ``[3]`` world up: the mean of the cameras' own.
        fov: Vertical angle of view in radians.
        distance: From the centre to ``look_at``.
    """

    view: int
    position: Tensor
    look_at: Tensor
    up: Tensor
    fov: float
    distance: float


def choose_start(scene: Scene) -> Start:
    """The training view that sees most of the solid Gaussians, itself included."""
    means = scene.gaussians.means.double().cpu()
    solid = scene.gaussians.opacities.cpu() >= _SOLID
    points = means[solid] if bool(solid.any()) else means
    points = points[:: max(1, len(points) // 20_000)]
    candidates = scene.views(heldout=False) or list(range(len(scene.names)))
    candidates = candidates[:: max(1, len(candidates) // _MANY)]
    seen = [int(_inside(scene, index, points).sum()) for index in candidates]
    best = candidates[max(range(len(seen)), key=lambda i: (seen[i], -i))]
    depths = _depths(scene, best, points)[_inside(scene, best, points)]
    camera = scene.cameras[best]
    extent = max(scene.cameras.extent, 1e-3)
    distance = float(depths.median()) if len(depths) else extent
    pose = camera.camtoworlds[0]
    up = -scene.cameras.viewmats[:, 1, :3].mean(0)
    if float(up.norm()) < 1e-3:  # cameras that look every way up
        up = -camera.viewmats[0, 1, :3]
    position = pose[:3, 3]
    return Start(best, position, position + distance * pose[:3, 2],
                 torch.nn.functional.normalize(up, dim=0), view_angle(scene, best),
                 distance)  # fmt: skip


def view_angle(scene: Scene, index: int) -> float:
    """Vertical angle of view of a stored view, radians."""
    height = float(scene.cameras.sizes[index, 1])
    return 2 * math.atan(height / (2 * float(scene.cameras.Ks[index, 1, 1])))


def viewmat_of(position: Tensor, look_at: Tensor, up: Tensor) -> Tensor:
    """``[4, 4]`` world to camera (OpenCV axes) of a camera that looks at a point."""
    return matrices_looking_at(position[None].double(), look_at[None].double(), up.double())[0]


def _depths(scene: Scene, index: int, points: Tensor) -> Tensor:
    matrix = scene.cameras.viewmats[index]
    return points @ matrix[2, :3] + matrix[2, 3]


def _inside(scene: Scene, index: int, points: Tensor) -> Tensor:
    matrix, width_height = scene.cameras.viewmats[index], scene.cameras.sizes[index].double()
    local = points @ matrix[:3, :3].T + matrix[:3, 3]
    projected = local @ scene.cameras.Ks[index].T
    pixels = projected[:, :2] / projected[:, 2:].clamp_min(1e-9)
    return (local[:, 2] > 0) & (pixels >= 0).all(1) & (pixels <= width_height).all(1)
