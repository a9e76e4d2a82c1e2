"""Walls and what hangs on them: doors, windows, pictures."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from fit3d_cli.rooms.palette import SOFT, WHITE, Palette, fabric, srgb
from fit3d_cli.rooms.pieces import LABEL, Piece
from fit3d_cli.rooms.primitives import Material, Solid, yaw_matrix


@dataclass
class Wall:
    """One wall, with coordinates (s along it, z up).

    Attributes:
        yaw: Rotation that turns +y into the wall's inward normal.
        distance: From the middle of the room to the wall, metres.
        reach: Half the length of the wall.
        height: Of the room.
        used: Occupied ``(s, half width, bottom, top)``.
    """

    yaw: float
    distance: float
    reach: float
    height: float
    used: list[tuple[float, float, float, float]] = field(default_factory=list)

    def at(self, s: float, out: float) -> tuple[float, float]:
        """World ``(x, y)`` of the point ``out`` metres in front of the wall."""
        turn = yaw_matrix(self.yaw)
        x, y, _ = turn @ (s, out - self.distance, 0.0)
        return float(x), float(y)

    def free(self, s: float, width: float, bottom: float, top: float) -> bool:
        """Whether a rectangle meets nothing that is in use."""
        return all(
            abs(s - other) >= width / 2 + half or bottom >= high or top <= low
            for other, half, low, high in self.used
        )

    def use(self, s: float, width: float, bottom: float, top: float) -> None:
        """Mark a rectangle as in use."""
        self.used.append((s, width / 2, bottom, top))


def add_door(rng: random.Random, palette: Palette, wall: Wall, s: float) -> list[Solid]:
    """A closed door with frame and handle."""
    piece = Piece(LABEL["panel"])
    w, h = 0.88, 2.05
    color = rng.choice((WHITE, WHITE, rng.choice(SOFT), palette.wood.colors[0]))
    frame = Material("plain", (rng.choice((WHITE, color)),), seed=rng.randrange(99))
    piece.box((0, 0.02, h / 2), (w, 0.04, h), Material("door", (color,)), bevel=0)
    for x in (-1, 1):
        piece.box((x * (w / 2 + 0.04), 0.03, h / 2 + 0.04), (0.08, 0.06, h + 0.08), frame)
    piece.box((0, 0.03, h + 0.04), (w, 0.06, 0.08), frame)
    piece.blob((0.37 * w, 0.07, 1.0), (0.06, 0.03, 0.025), palette.metal)
    wall.use(s, w + 0.3, 0, h + 0.15)
    return piece.placed((*wall.at(s, 0), 0.0), wall.yaw)


def add_window(
    rng: random.Random, palette: Palette, wall: Wall, s: float, w: float, h: float
) -> tuple[list[Solid], Solid]:
    """A window with a view, bars, a sill and perhaps curtains.

    Returns:
        All its solids, and the pane among them.
    """
    piece = Piece(LABEL["panel"])
    middle = 0.85 + h / 2
    sky = rng.choice((("8fbfe8", "dcebf5"), ("a9c4dc", "f2e3cf"), ("bccad6", "e6eaed")))
    greens = rng.choice((("4c6b3c", "7f9a5c"), ("5c5f4a", "98916a"), ("3f5d4f", "6f9a7a")))
    view = Material("sky", tuple(map(srgb, (*sky, *greens))), seed=rng.randrange(999), glow=1.1)
    piece.box((0, 0.01, middle), (w, 0.02, h), view, bevel=0)
    frame = Material("plain", (rng.choice((WHITE, WHITE, palette.wood.colors[0])),))
    for x in (-1, 1):
        piece.box((x * w / 2, 0.03, middle), (0.07, 0.06, h + 0.07), frame)
    for z in (-1, 1):
        piece.box((0, 0.03, middle + z * h / 2), (w, 0.06, 0.07), frame)
    for k in range(1, rng.choice((2, 3))):
        piece.box((w * (k / 2 - 0.5 if k > 1 else 0), 0.028, middle), (0.045, 0.05, h), frame)
    if rng.random() < 0.5:
        piece.box((0, 0.028, middle + 0.15 * h), (w, 0.05, 0.045), frame)
    piece.box((0, 0.09, middle - h / 2 - 0.05), (w + 0.16, 0.2, 0.04), frame)
    wide = w + 0.3
    if rng.random() < 0.6:
        cloth = fabric(rng, rng.choice((*SOFT, *palette.accents)))
        for x in (-1, 1):
            for fold in range(4):
                at = (x * (w / 2 + 0.02 + 0.075 * fold), 0.1, 0.1)
                piece.round(at, 0.05, middle + h / 2 + 0.06, cloth)
        rod = (0, 0.1, middle + h / 2 + 0.17)
        piece.box(rod, (w + 0.75, 0.03, 0.03), palette.metal)
        wide = w + 0.75
    wall.use(s, wide, 0.8, middle + h / 2 + 0.25)
    solids = piece.placed((*wall.at(s, 0), 0.0), wall.yaw)
    return solids, solids[0]


def add_picture(rng: random.Random, palette: Palette, wall: Wall) -> list[Solid]:
    """A framed picture or a round mirror-like disc of colour where the wall is free, or none."""
    w, h = rng.uniform(0.4, 0.95), rng.uniform(0.4, 0.75)
    for _ in range(12):
        s = rng.uniform(-1, 1) * (wall.reach - w / 2 - 0.15)
        z = rng.uniform(1.35, 1.7)
        if not wall.free(s, w + 0.12, z - h / 2 - 0.06, z + h / 2 + 0.06):
            continue
        wall.use(s, w + 0.12, z - h / 2 - 0.06, z + h / 2 + 0.06)
        piece = Piece(LABEL["panel"])
        colors = [*palette.accents, WHITE, srgb("2e3a4a"), srgb("e8c9a0")]
        rng.shuffle(colors)
        canvas = Material("painting", tuple(colors[:4]), seed=rng.randrange(9999))
        edge = rng.choice((palette.wood, palette.metal, Material("plain", (WHITE,))))
        piece.box((0, 0.012, z), (w, 0.024, h), edge, bevel=0.01)
        mat = Material("plain", (WHITE,))
        piece.box((0, 0.014, z), (w - 0.07, 0.026, h - 0.07), mat, bevel=0)
        inner = rng.choice((0.08, 0.2))
        piece.box((0, 0.016, z), (w - inner, 0.028, h - inner), canvas, bevel=0)
        return piece.placed((*wall.at(s, 0), 0.0), wall.yaw)
    return []
