"""How much light reaches a surface: lamps, windows and sun with shadows, ambient with occlusion.

Everything is Lambertian, so a surface point has one colour whoever looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit3d_cli.rooms.layout import Light, Room
from fit3d_cli.rooms.primitives import Array, Solid, dot

AMBIENT = 0.34
LIFT = 2e-3  # metres off the surface, so that a solid does not shadow itself


@dataclass(frozen=True, eq=False)
class Surface:
    """N surface points, sorted by group (see ``render``).

    Attributes:
        points: ``[N, 3]`` float32 world positions.
        normals: ``[N, 3]`` unit shading normals.
        flats: ``[N, 3]`` unit geometric normals.
        groups: ``[N]`` position of each point's group in the arrays below.
        slots: ``[N]`` which of a light's four samples a point uses.
        lifted: ``[N, 3]`` points moved off the surface, where shadow rays start.
        centers: ``[G, 3]`` bounding-sphere centres of the groups.
        radii: ``[G]`` bounding-sphere radii, metres.
        group_slots: ``[G]`` slot of each group.
    """

    points: Array
    normals: Array
    flats: Array
    groups: Array
    slots: Array
    lifted: Array
    centers: Array
    radii: Array
    group_slots: Array

    @staticmethod
    def of(points: Array, normals: Array, flats: Array, groups: Array, slots: Array) -> Surface:
        """Measure the groups; ``groups`` holds their sorted numbers, ``[N]``."""
        _, starts, dense = np.unique(groups, return_index=True, return_inverse=True)
        low = np.minimum.reduceat(points, starts)
        high = np.maximum.reduceat(points, starts)
        radii = np.sqrt(dot(high - low, high - low)) / 2 + 2 * LIFT
        return Surface(
            points, normals, flats, dense, slots, points + np.float32(LIFT) * flats,
            (low + high) / 2, radii, slots[starts],
        )  # fmt: skip


def irradiance(room: Room, surface: Surface) -> Array:
    """Incoming light ``[N, 3]``, linear RGB, 1 being about a well-lit white wall."""
    total = _ambient(room, surface)
    for light in room.lights:
        _add_lamp(total, room, light, surface)
    _add_sun(total, room, surface)
    return total


def _ambient(room: Room, surface: Surface) -> Array:
    """Light from all around, darkened in corners, under and next to furniture."""
    points, normals = surface.points, surface.normals
    half_x, half_y, height = room.size[0] / 2, room.size[1] / 2, room.size[2]
    exposed = np.ones(len(points), np.float32)
    planes = (
        (half_x - points[:, 0], -normals[:, 0]), (half_x + points[:, 0], normals[:, 0]),
        (half_y - points[:, 1], -normals[:, 1]), (half_y + points[:, 1], normals[:, 1]),
        (height - points[:, 2], -normals[:, 2]), (points[:, 2], normals[:, 2]),
    )  # fmt: skip
    for distance, facing in planes:
        # A plane darkens what does not face away from it; its own points face away.
        exposed *= 1 - 0.36 * np.exp(-distance / 0.28) * np.clip(1 - facing, 0, 1)
    for item in room.items[1:]:
        low, high = _bounds(item)
        if high[2] > 2.2 or high[2] - low[2] < 0.05:
            continue
        gap = np.maximum(np.maximum(low - points, points - high), 0)
        distance = np.sqrt(dot(gap, gap))
        near = np.exp(-distance / 0.13) * (distance > 0)
        under = (distance == 0) & (points[:, 2] < 0.03)
        exposed *= 1 - 0.3 * near - 0.45 * under
    sky = 0.86 + 0.22 * normals[:, 2]
    result: Array = (AMBIENT * exposed * sky)[:, None] * np.array([1.0, 0.98, 0.95], np.float32)
    return result


def _bounds(item: tuple[Solid, ...]) -> tuple[Array, Array]:
    corners = np.concatenate([solid.corners() for solid in item]).astype(np.float32)
    return corners.min(0), corners.max(0)


def _add_lamp(total: Array, room: Room, light: Light, surface: Surface) -> None:
    samples = light.points.astype(np.float32)
    towards = samples[surface.slots] - surface.lifted
    square = dot(towards, towards)
    length = np.sqrt(square)
    # An upper bound on the fall-off keeps the surroundings of a lamp from burning out.
    strength = np.maximum(dot(towards, surface.normals), 0) / (length * (square + 0.6))
    if light.normal is not None:
        strength *= np.maximum(-(towards @ light.normal.astype(np.float32)) / length, 0)
    lit = np.flatnonzero((strength > 1e-3) & (dot(towards, surface.flats) > 0))
    group_towards = samples[surface.group_slots] - surface.centers
    lit = _unblocked(room, surface, lit, towards, group_towards)
    total[lit] += strength[lit, None] * np.asarray(light.color, np.float32)


def _add_sun(total: Array, room: Room, surface: Surface) -> None:
    if room.sun is None:
        return
    direction = room.sun.direction.astype(np.float32)
    cosine = surface.normals @ direction
    lit = np.flatnonzero((cosine > 0) & (surface.flats @ direction > 0))
    rays = np.broadcast_to(direction, surface.points.shape)
    enter, leave = room.sun.opening.interval(surface.lifted[lit], rays[lit])
    lit = lit[(enter < leave) & (enter > 0.05)]
    # Rays end in the pane, which would stop them; it lies within the room's longest diagonal.
    towards = np.zeros_like(surface.points)
    towards[lit] = direction * (enter[(enter < leave) & (enter > 0.05), None] - 1e-3)
    reach = np.float32(np.linalg.norm(room.size))
    group_towards = np.broadcast_to(direction * reach, surface.centers.shape)
    lit = _unblocked(room, surface, lit, towards, group_towards)
    total[lit] += cosine[lit, None] * np.asarray(room.sun.color, np.float32)


def _unblocked(
    room: Room, surface: Surface, lit: Array, towards: Array, group_towards: Array
) -> Array:
    """Those of the rows ``lit`` between which and ``lifted + towards`` nothing stands.

    Args:
        room: The room; its shell casts no shadow.
        surface: The points.
        lit: ``[M]`` rows to test.
        towards: ``[N, 3]`` from each lifted point to its light sample.
        group_towards: ``[G, 3]`` the same from the groups' centres.
    """
    blocked = np.zeros(len(surface.points), bool)
    reach = dot(group_towards, group_towards)
    for item in room.items[1:]:
        casting = [solid for solid in item if solid.casts]
        if not casting:
            continue
        # A solid matters to a group when it comes near the segment from the group's centre,
        # widened by the group's radius: [G, S].
        offset = np.stack([s.center for s in casting]).astype(np.float32) - surface.centers[:, None]
        along = np.einsum("gsi,gi->gs", offset, group_towards)
        t = np.clip(along / reach[:, None], 0, 1)
        square = dot(offset, offset) + t * (t * reach[:, None] - 2 * along)
        margin = np.array([s.radius for s in casting], np.float32) + surface.radii[:, None]
        near = square < margin * margin
        rows = lit[near.any(axis=1)[surface.groups[lit]]]
        for number, solid in enumerate(casting):
            some = rows[near[surface.groups[rows], number] & ~blocked[rows]]
            if len(some) > 0:
                enter, leave = solid.interval(surface.lifted[some], towards[some])
                blocked[some] = (enter < leave) & (leave > 1e-3) & (enter < 0.999)
    return lit[~blocked[lit]]
