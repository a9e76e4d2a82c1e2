"""From a seed to a furnished room: walls, openings, furniture, lights, camera path."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from fit3d_cli.rooms.furniture import bed, chair, floor_lamp, shelf, sofa, table
from fit3d_cli.rooms.objects import floor_clutter, plant, rug, tabletop
from fit3d_cli.rooms.openings import Wall, add_door, add_picture, add_window
from fit3d_cli.rooms.palette import (
    WHITE,
    Palette,
    draw_palette,
    floor_material,
    srgb,
    wall_materials,
)
from fit3d_cli.rooms.pieces import LABEL, Piece
from fit3d_cli.rooms.primitives import Array, Color, Material, Solid, yaw_matrix


@dataclass(frozen=True, eq=False)
class Light:
    """A small area light.

    Attributes:
        points: ``[4, 3]`` samples of its surface, one per colour sub-sample of a pixel.
        color: Linear RGB power.
        normal: ``[3]`` facing direction of a flat light, or None when it shines all around.
    """

    points: Array
    color: Color
    normal: Array | None = None


@dataclass(frozen=True, eq=False)
class Sun:
    """Sunlight that falls in through one window.

    Attributes:
        direction: ``[3]`` unit vector towards the sun.
        opening: The window's pane: light passes through its face only.
        color: Linear RGB power.
    """

    direction: Array
    opening: Solid
    color: Color


@dataclass(frozen=True, eq=False)
class Room:
    """A furnished room; a pure function of its seed.

    Attributes:
        seed: What it was generated from.
        size: ``(width, depth, height)`` in metres; x and y are centred, the floor is z = 0.
        items: Solids by piece; the first item is the shell and casts no shadows.
        lights: Lamps and windows.
        sun: Direct sunlight, or None.
        orbit: Start angle, direction (+1 or -1) and four phases of the camera path.
    """

    seed: int
    size: tuple[float, float, float]
    items: tuple[tuple[Solid, ...], ...]
    lights: tuple[Light, ...]
    sun: Sun | None
    orbit: tuple[float, ...]


def generate_room(seed: int) -> Room:
    """Furnish a room.

    Args:
        seed: Any integer; the same seed gives the same room.
    """
    rng = random.Random(seed)
    size = (rng.uniform(4.3, 6.0), rng.uniform(4.0, 5.4), rng.uniform(2.45, 2.8))
    palette = draw_palette(rng)
    plan = _Plan(rng, palette, size)
    door_wall, window_wall, other = rng.sample(range(4), 3)
    plan.door(door_wall)
    pane = plan.window(window_wall)
    if rng.random() < 0.35:
        plan.window(other)
    plan.furnish()
    plan.pictures()
    sun = None
    if rng.random() < 0.6:
        # Towards the window's outside, 25 to 45 degrees high.
        yaw = plan.walls[window_wall].yaw - math.pi / 2 + rng.uniform(-0.7, 0.7)
        height = rng.uniform(0.45, 0.8)
        direction = np.array([math.cos(yaw), math.sin(yaw), math.tan(height)])
        sun = Sun(direction / np.linalg.norm(direction), pane, (2.6, 2.3, 1.8))
    start, direction_of_walk = rng.uniform(0, math.tau), rng.choice((-1.0, 1.0))
    orbit = (start, direction_of_walk, *(rng.uniform(0, math.tau) for _ in range(4)))
    items = (tuple(plan.shell.solids), *(tuple(item) for item in plan.items))
    return Room(seed, size, items, tuple(plan.lights), sun, orbit)


@dataclass(frozen=True)
class _Rect:
    """Footprint of a piece: centre and half sizes, aligned with the room."""

    x: float
    y: float
    w: float
    d: float

    def clear_of(self, other: _Rect, gap: float) -> bool:
        return (
            abs(self.x - other.x) >= self.w + other.w + gap
            or abs(self.y - other.y) >= self.d + other.d + gap
        )


class _Plan:
    """A room while it is being furnished."""

    def __init__(
        self, rng: random.Random, palette: Palette, size: tuple[float, float, float]
    ) -> None:
        self.rng, self.palette, self.size = rng, palette, size
        w, d, h = size
        self.walls = [
            Wall(0.0, d / 2, w / 2, h), Wall(math.pi / 2, w / 2, d / 2, h),
            Wall(math.pi, d / 2, w / 2, h), Wall(-math.pi / 2, w / 2, d / 2, h),
        ]  # fmt: skip
        self.shell = Piece(LABEL["wall"])
        self.items: list[list[Solid]] = []
        self.taken: list[_Rect] = []
        self.lights: list[Light] = []
        self._shell()

    def _shell(self) -> None:
        rng, (w, d, h), thick = self.rng, self.size, 0.1
        room = (w + 2 * thick, d + 2 * thick, thick)
        self.shell.box((0, 0, -thick / 2), room, floor_material(rng), bevel=0,
                       label=LABEL["floor"])  # fmt: skip
        ceiling = Material("plain", (WHITE,), seed=rng.randrange(999))
        self.shell.box((0, 0, h + thick / 2), room, ceiling, bevel=0, label=LABEL["ceiling"])
        skirting = rng.choice((Material("plain", (WHITE,)), self.palette.wood))
        for wall, material in zip(self.walls, wall_materials(rng), strict=True):
            flat = Piece(LABEL["wall"])
            # Walls overlap beyond the corners, so that no ray slips through an edge.
            flat.box((0, -thick / 2, h / 2), (2 * wall.reach + 2 * thick, thick, h), material,
                     bevel=0)  # fmt: skip
            flat.box((0, 0.01, 0.045), (2 * wall.reach, 0.02, 0.09), skirting, bevel=0.01)
            self.shell.add(flat, (*wall.at(0, 0), 0.0), wall.yaw)

    def door(self, index: int) -> None:
        wall = self.walls[index]
        s = self.rng.uniform(-1, 1) * (wall.reach - 0.8)
        self.items.append(add_door(self.rng, self.palette, wall, s))
        self._claim(wall, s, 0.35, 1.0, 0.7)

    def window(self, index: int) -> Solid:
        wall, rng = self.walls[index], self.rng
        w, h = rng.uniform(1.1, 1.9), rng.uniform(1.0, 1.3)
        s = rng.uniform(-1, 1) * (wall.reach - w / 2 - 0.4)
        solids, pane = add_window(rng, self.palette, wall, s, w, h)
        self.items.append(solids)
        turn = yaw_matrix(wall.yaw)
        corners = [turn @ np.array([x * w / 4, 0.06, z * h / 4]) for x in (-1, 1) for z in (-1, 1)]
        points = np.stack([pane.center + c for c in corners])
        power = 1.5 * w * h
        self.lights.append(Light(points, (0.92 * power, power, 1.1 * power), turn[:, 1]))
        return pane

    def furnish(self) -> None:
        rng, palette = self.rng, self.palette
        has_bed, has_sofa = rng.choice(((True, False), (False, True), (True, True), (True, True)))
        if has_bed:
            self._along_wall(bed(rng, palette), 0.02)
        if has_sofa:
            self._along_wall(sofa(rng, palette), 0.06)
        self._along_wall(shelf(rng, palette), 0.01)
        self._desk()
        self._centre()
        lamp = floor_lamp(rng, palette)
        spot = self._along_wall(lamp, 0.1)
        if spot is not None:
            self._lamp_light(spot + lamp.lights[0], 1.3, 0.14)
        self._along_wall(plant(rng, palette, rng.uniform(0.8, 1.35)), 0.08)
        if rng.random() < 0.8:
            self._along_wall(shelf(rng, palette), 0.01)
        if has_sofa and rng.random() < 0.5:
            self._along_wall(sofa(rng, palette), 0.06)
        for _ in range(rng.randrange(2, 5)):
            self._along_wall(floor_clutter(rng, palette), rng.uniform(0.03, 0.4))
        if rng.random() < 0.6:
            self._along_wall(plant(rng, palette, rng.uniform(0.5, 1.1)), 0.08)
        self._pendant()

    def pictures(self) -> None:
        rng = self.rng
        for wall in self.walls:
            for _ in range(rng.choice((1, 2, 2, 3))):
                solids = add_picture(rng, self.palette, wall)
                if solids:
                    self.items.append(solids)

    def _desk(self) -> None:
        rng = self.rng
        w, d = rng.uniform(1.0, 1.5), rng.uniform(0.55, 0.7)
        piece = table(rng, self.palette, w, d, 0.74)
        for k in range(rng.randrange(1, 4)):
            at = (w * (0.34 * k - 0.34) + rng.uniform(-0.03, 0.03), -0.08, 0.74)
            piece.add(tabletop(rng, self.palette), at, rng.uniform(-0.3, 0.3))
        seat = chair(rng, self.palette)
        at = (rng.uniform(-0.2, 0.2), d / 2 + rng.uniform(0.05, 0.25), 0.0)
        piece.add(seat, at, math.pi + rng.uniform(-0.5, 0.5))
        piece.size = (w, d + 0.5, 0.74)
        # The chair stands in front: move the desk back so that the pair is centred.
        moved = Piece(piece.label, piece.size)
        moved.add(piece, (0, -0.25, 0))
        self._along_wall(moved, 0.03)

    def _centre(self) -> None:
        """A table in the middle: dining with chairs, or a low one; on a rug perhaps."""
        rng, palette = self.rng, self.palette
        dining = rng.random() < 0.6
        w = rng.uniform(0.9, 1.4) if dining else rng.uniform(0.7, 1.1)
        d = rng.choice((w, rng.uniform(0.6, 0.85)))
        h = 0.74 if dining else 0.42
        group = table(rng, palette, w, d, h)
        for _ in range(rng.choice((1, 2, 2))):
            at = (rng.uniform(-0.3, 0.3) * w, rng.uniform(-0.25, 0.25) * d, h)
            group.add(tabletop(rng, palette), at, rng.uniform(-1, 1))
        quarter = math.pi / 2
        around = [(0.0, -1.0, 0.0), (0.0, 1.0, math.pi), (-1.0, 0.0, -quarter), (1.0, 0.0, quarter)]
        for x, y, yaw in rng.sample(around, rng.choice((2, 3, 4)) if dining else 1):
            gap = rng.uniform(0.05, 0.25) + (0 if dining else 0.3)
            at = (x * (w / 2 + gap), y * (d / 2 + gap), 0)
            group.add(chair(rng, palette), at, yaw + rng.uniform(-0.25, 0.25))
        group.size = (w + 1.0, d + 1.0, h)
        shifts = [(rng.uniform(-0.9, 0.9), rng.uniform(-0.7, 0.7)) for _ in range(30)]
        for x, y in [(0.0, 0.0), *shifts]:
            rect = _Rect(x, y, group.size[0] / 2, group.size[1] / 2)
            if self._free(rect, 0.0):
                self.taken.append(rect)
                yaw = rng.uniform(-0.15, 0.15)
                self.items.append(group.placed((x, y, 0), yaw))
                if rng.random() < 0.65:
                    carpet = rug(rng, palette, group.size[0] + 0.2, group.size[1] + 0.1)
                    self.items.append(carpet.placed((x, y, 0), 0.0))
                return

    def _pendant(self) -> None:
        rng, (_, _, h) = self.rng, self.size
        piece = Piece(LABEL["lamp"])
        glow = Material("plain", (srgb("fff0d8"),), glow=1.0)
        drop = rng.uniform(0.35, 0.6)
        cord = Material("plain", (srgb("2c2c2e"),))
        piece.round((0, 0, h - drop), 0.012, drop, cord, casts=False)
        style = rng.randrange(3)
        if style == 0:
            piece.blob((0, 0, h - drop), (0.17, 0.17, 0.17), glow, casts=False)
        elif style == 1:
            piece.round((0, 0, h - drop - 0.1), 0.26, 0.22, glow, top=0.1, casts=False)
        else:
            piece.round((0, 0, h - drop), 0.25, 0.16, glow, casts=False)
        at = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), 0])
        self.items.append(piece.placed(at.tolist(), 0.0))
        self._lamp_light(at + np.array([0, 0, h - drop]), 2.6, 0.2)

    def _lamp_light(self, at: Array, power: float, radius: float) -> None:
        tetra = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
        color = (power, 0.86 * power, 0.66 * power)
        self.lights.append(Light(at + radius * tetra, color))

    def _along_wall(self, piece: Piece, gap: float) -> Array | None:
        """Put a piece with its back at a wall where there is room; its position or None."""
        w, d, h = piece.size
        for _ in range(40):
            wall = self.rng.choice(self.walls)
            # Half of the tries go to the corners, where pieces like to stand.
            span = wall.reach - w / 2 - 0.05
            s = self.rng.uniform(-1, 1) * span
            if self.rng.random() < 0.4:
                s = math.copysign(span, s)
            if span <= 0 or not wall.free(s, w, 0.05, h - 0.05):
                continue
            if self._claim(wall, s, d / 2 + gap, w, d):
                wall.use(s, w, 0.0, h)
                x, y = wall.at(s, d / 2 + gap)
                self.items.append(piece.placed((x, y, 0), wall.yaw))
                return np.array([x, y, 0.0])
        return None

    def _claim(self, wall: Wall, s: float, out: float, w: float, d: float) -> bool:
        x, y = wall.at(s, out)
        turned = abs(math.sin(wall.yaw)) > 0.5
        rect = _Rect(x, y, (d if turned else w) / 2, (w if turned else d) / 2)
        if not self._free(rect, 0.04):
            return False
        self.taken.append(rect)
        return True

    def _free(self, rect: _Rect, gap: float) -> bool:
        return all(rect.clear_of(other, gap) for other in self.taken)
