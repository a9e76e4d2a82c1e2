"""Ray casting of rooms: colour with soft shadows, exact depth, exact labels.

Shading is Lambertian throughout, so a surface point has one colour whoever looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit3d_cli.rooms.layout import Room
from fit3d_cli.rooms.lighting import Surface, irradiance
from fit3d_cli.rooms.primitives import Array, Solid
from fit3d_cli.rooms.textures import albedo

NEAR = 0.02
TILE = 16  # samples; a shadow test is skipped or done for a whole tile
EXPOSURE = 1.5


@dataclass(frozen=True, eq=False)
class RoomFrame:
    """One rendered view.

    Attributes:
        image: ``[H, W, 3]`` uint8 sRGB, 2 x 2 samples per pixel.
        depth: ``[H, W]`` float32, metres along the optical axis, at pixel centres (+0.5).
        labels: ``[H, W]`` uint8 indices into ``CLASSES``, at pixel centres.
    """

    image: Array
    depth: Array
    labels: Array


def render_room(room: Room, camtoworld: Array, K: Array, width: int, height: int) -> RoomFrame:
    """Render one view of a room.

    Args:
        room: The room.
        camtoworld: ``[4, 4]`` camera to world, OpenCV axes, metres; the camera is inside.
        K: ``[3, 3]`` intrinsics in pixels of a ``width`` x ``height`` picture.
        width: Width in pixels.
        height: Height in pixels.
    """
    pose, K = np.asarray(camtoworld, np.float64), np.asarray(K, np.float64)
    solids = [solid for item in room.items for solid in item]
    depth, index = _visible(solids, pose, K, width, height, np.float64)
    double = K * np.array([[2.0], [2.0], [1.0]])
    fine_depth, fine_index = _visible(solids, pose, double, 2 * width, 2 * height, np.float32)
    rays = _directions(pose, double, 2 * width, 2 * height, np.float32)
    points = pose[:3, 3].astype(np.float32) + rays * fine_depth[..., None]
    groups, slots = _groups(2 * width, 2 * height)
    order = np.argsort(groups, kind="stable")
    color = np.empty((4 * width * height, 3), np.float32)
    color[order] = _shade(
        room, solids, points.reshape(-1, 3)[order], fine_index.ravel()[order],
        groups[order], slots[order],
    )  # fmt: skip
    shown = (1 - np.exp(-EXPOSURE * color)) ** (1 / 2.2)
    image = shown.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    labels = np.array([solid.label for solid in solids], np.uint8)[index]
    return RoomFrame(
        np.clip(255 * image + 0.5, 0, 255).astype(np.uint8), depth.astype(np.float32), labels
    )


def _directions(pose: Array, K: Array, width: int, height: int, dtype: type) -> Array:
    """``[H, W, 3]`` world directions through pixel centres with camera z = 1."""
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    camera = np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.ones((1, 1))), axis=-1)
    result: Array = (camera @ pose[:3, :3].T).astype(dtype)
    return result


def _visible(
    solids: list[Solid], pose: Array, K: Array, width: int, height: int, dtype: type
) -> tuple[Array, Array]:
    """Depth ``[H, W]`` and index ``[H, W]`` of the nearest solid along each ray."""
    rays = _directions(pose, K, width, height, dtype)
    origin: Array = pose[:3, 3].astype(dtype)
    depth: Array = np.full((height, width), np.inf, dtype)
    index = np.zeros((height, width), np.int64)
    for number, solid in enumerate(solids):
        window = _window(solid, pose, K, width, height)
        if window is None:
            continue
        enter, leave = solid.interval(origin, rays[window])
        nearer = (enter < leave) & (enter > NEAR) & (enter < depth[window])
        depth[window] = np.where(nearer, enter, depth[window])
        index[window] = np.where(nearer, number, index[window])
    return depth, index


def _window(
    solid: Solid, pose: Array, K: Array, width: int, height: int
) -> tuple[slice, slice] | None:
    """The pixels that a solid can cover, or None when it is behind the camera."""
    corners = (solid.corners() - pose[:3, 3]) @ pose[:3, :3]
    if (corners[:, 2] < NEAR).all():
        return None
    if (corners[:, 2] < NEAR).any():
        return slice(0, height), slice(0, width)
    x = K[0, 0] * corners[:, 0] / corners[:, 2] + K[0, 2]
    y = K[1, 1] * corners[:, 1] / corners[:, 2] + K[1, 2]
    left, right = max(0, int(x.min()) - 1), min(width, int(x.max()) + 2)
    top, bottom = max(0, int(y.min()) - 1), min(height, int(y.max()) + 2)
    if left >= right or top >= bottom:
        return None
    return slice(top, bottom), slice(left, right)


def _groups(width: int, height: int) -> tuple[Array, Array]:
    """Group number and light-sample slot of every sample of a picture, both flat.

    The samples of a group lie in one tile and use the same point of every light, which lets
    shadow tests skip whole groups. The four samples of a pixel use the four points.
    """
    y, x = np.mgrid[:height, :width]
    slots = 2 * (y % 2) + x % 2
    tiles = (y // TILE) * -(-width // TILE) + x // TILE
    return (4 * tiles + slots).ravel(), slots.ravel()


def _shade(
    room: Room, solids: list[Solid], points: Array, index: Array, groups: Array, slots: Array
) -> Array:
    """Radiance ``[N, 3]`` of surface points that are sorted by group."""
    base, normals, flats = (np.zeros_like(points) for _ in range(3))
    glow = np.zeros((len(points), 1), np.float32)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(solids) + 1))
    for number, solid in enumerate(solids):
        rows = order[starts[number] : starts[number + 1]]
        if len(rows) == 0:
            continue
        local = solid.to_local(points[rows])
        flat, smooth = solid.normals(local)
        base[rows] = albedo(solid, local, flat)
        turn = solid.rotation.T.astype(np.float32)
        normals[rows], flats[rows] = smooth @ turn, flat @ turn
        glow[rows] = solid.material.glow
    incoming = irradiance(room, Surface.of(points, normals, flats, groups, slots))
    radiance: Array = base * (incoming * (1 - 0.7 * glow) + 1.3 * glow)
    return radiance
