"""Small things, lamps on tables and plants (frames as in ``pieces``)."""

from __future__ import annotations

import math
import random

import numpy as np

from fit3d_cli.rooms.palette import BOOKS, LEAVES, SOFT, WHITE, Palette, fabric, srgb
from fit3d_cli.rooms.pieces import LABEL, Piece
from fit3d_cli.rooms.primitives import Color, Material, Solid, pitch_matrix, yaw_matrix


def desk_lamp(rng: random.Random, palette: Palette) -> Piece:
    """A small lamp for a table or a drawer chest; its light is only its glow."""
    piece = Piece(LABEL["lamp"], (0.24, 0.24, 0.42))
    body = Material("plain", (rng.choice(palette.accents),), seed=rng.randrange(99))
    piece.blob((0, 0, 0.1), (0.08, 0.08, 0.1), body)
    piece.round((0, 0, 0.18), 0.012, 0.1, palette.metal)
    shade = Material("plain", (srgb("ffe6c0"),), glow=0.8)
    piece.round((0, 0, 0.25), 0.14, 0.18, shade, top=0.08, casts=False)
    return piece


def plant(rng: random.Random, palette: Palette, h: float) -> Piece:
    """A potted plant of height ``h``: leaves of ellipsoids, bushy or fan-shaped."""
    piece = Piece(LABEL["plant"], (0.6 * h + 0.1, 0.6 * h + 0.1, h))
    pot = Material("plain", (rng.choice((*palette.accents, WHITE, srgb("b5683f"))),))
    size = 0.13 * h + 0.03
    piece.round((0, 0, 0), 0.75 * size, 1.5 * size, pot, top=size)
    soil = Material("plain", (srgb("3d2b20"),))
    piece.round((0, 0, 1.5 * size - 0.01), 0.85 * size, 0.02, soil)
    green = rng.choice(LEAVES)
    bush = rng.random() < 0.4
    if bush:
        piece.round((0, 0, 1.5 * size), 0.02, 0.35 * h, Material("wood", (srgb("6a4a30"),), 0.1))
    for k in range(rng.randrange(8, 13)):
        leaf = Material("leaf", green, seed=rng.randrange(999))
        yaw = 2.4 * k + rng.uniform(-0.3, 0.3)
        if bush:
            r, z = rng.uniform(0, 0.2) * h, h * rng.uniform(0.55, 0.9)
            half = tuple(h * rng.uniform(0.09, 0.15) for _ in range(3))
            piece.blob((r * math.cos(yaw), r * math.sin(yaw), z), half, leaf)
            continue
        lean, long = rng.uniform(0.15, 0.9), h * rng.uniform(0.32, 0.42)
        root = np.array([0, 0, 1.4 * size])
        rotation = yaw_matrix(yaw) @ pitch_matrix(-lean)
        center = root + rotation @ np.array([0, 0, long])
        half = (0.07 * h + 0.01, 0.012 + 0.01 * h, long)
        piece.solids.append(Solid(
            "ellipsoid", center, rotation, np.array(half), leaf, piece.label
        ))  # fmt: skip
    return piece


def vessel(rng: random.Random, palette: Palette, h: float) -> Piece:
    """A vase, bowl, mug or ball."""
    piece = Piece(LABEL["clutter"], (0.2, 0.2, h))
    color: Color = rng.choice((*palette.accents, WHITE))
    glaze = Material("plain", (color,), seed=rng.randrange(99))
    shape = rng.randrange(4)
    if shape == 0:
        piece.blob((0, 0, 0.4 * h), (0.35 * h, 0.35 * h, 0.4 * h), glaze)
        piece.round((0, 0, 0.7 * h), 0.12 * h, 0.3 * h, glaze, top=0.2 * h)
    elif shape == 1:
        piece.round((0, 0, 0), 0.3 * h, 0.5 * h, glaze, top=0.6 * h)
    elif shape == 2:
        piece.round((0, 0, 0), 0.28 * h, 0.8 * h, glaze)
    else:
        piece.blob((0, 0, 0.4 * h), (0.4 * h,) * 3, Material("dots", (color, WHITE), 0.1))
    return piece


def tabletop(rng: random.Random, palette: Palette) -> Piece:
    """Something to stand on a surface."""
    kind = rng.choice(("books", "vessel", "vessel", "screen", "plant", "lamp", "box"))
    if kind == "vessel":
        return vessel(rng, palette, rng.uniform(0.14, 0.26))
    if kind == "plant":
        return plant(rng, palette, rng.uniform(0.3, 0.45))
    if kind == "lamp":
        return desk_lamp(rng, palette)
    piece = Piece(LABEL["clutter"], (0.4, 0.3, 0.3))
    if kind == "books":
        z = 0.0
        for _ in range(rng.randrange(2, 5)):
            thick = rng.uniform(0.025, 0.05)
            cover = Material("plain", (rng.choice(BOOKS),))
            size = (rng.uniform(0.2, 0.27), rng.uniform(0.15, 0.19), thick)
            piece.box((0, 0, z + thick / 2), size, cover, yaw=rng.uniform(-0.4, 0.4), bevel=0.005)
            z += thick
    elif kind == "box":
        size = (rng.uniform(0.15, 0.3), rng.uniform(0.12, 0.2), rng.uniform(0.1, 0.22))
        piece.box((0, 0, size[2] / 2), size, fabric(rng, rng.choice(palette.accents)))
    else:
        black = Material("plain", (srgb("26282c"),))
        picture = Material("screen", tuple(rng.sample(palette.accents, 2)), seed=rng.randrange(999),
                           glow=0.45)  # fmt: skip
        piece.box((0, 0, 0.01), (0.22, 0.16, 0.02), black)
        piece.box((0, -0.02, 0.1), (0.05, 0.03, 0.18), black)
        piece.box((0, 0, 0.27), (0.52, 0.03, 0.32), black)
        piece.box((0, 0.016, 0.27), (0.48, 0.005, 0.28), picture, bevel=0)
    return piece


def floor_clutter(rng: random.Random, palette: Palette) -> Piece:
    """A cardboard box, a basket, a pouf or a ball on the floor."""
    piece = Piece(LABEL["clutter"], (0.5, 0.5, 0.5))
    kind = rng.randrange(4)
    if kind == 0:
        card = Material("plain", (srgb(rng.choice(("b98d5e", "c9a06c"))),), seed=rng.randrange(99))
        size = (rng.uniform(0.3, 0.48), rng.uniform(0.28, 0.4), rng.uniform(0.2, 0.4))
        yaw = rng.uniform(-0.5, 0.5)
        piece.box((0, 0, size[2] / 2), size, card, yaw=yaw)
        tape = Material("plain", (srgb("d8c9a0"),))
        piece.box((0, 0, size[2] / 2), (0.05, size[1] + 0.004, size[2] + 0.004), tape, yaw=yaw)
        if rng.random() < 0.4:
            small = (0.7 * size[0], 0.7 * size[1], 0.2)
            piece.box((0, 0, size[2] + 0.1), small, card, yaw=rng.uniform(-0.6, 0.6))
    elif kind == 1:
        wicker = Material("plaid", (srgb("c29a62"), srgb("94703f")), 0.08)
        piece.round((0, 0, 0), 0.16, 0.32, wicker, top=0.22)
    elif kind == 2:
        piece.round((0, 0, 0.0), 0.24, 0.34, fabric(rng, rng.choice(palette.accents)))
    else:
        colors = (rng.choice(palette.accents), WHITE)
        piece.blob((0, 0, 0.18), (0.18,) * 3, Material("stripes", colors, 0.2))
    return piece


def rug(rng: random.Random, palette: Palette, w: float, d: float) -> Piece:
    """A thin carpet; it counts as floor."""
    piece = Piece(LABEL["floor"], (w, d, 0.012))
    colors = (palette.accents[0], rng.choice(SOFT), palette.accents[1])
    material = Material("rug", colors, rng.uniform(0.25, 0.5), rng.randrange(999))
    piece.box((0, 0, 0.006), (w, d, 0.012), material, bevel=0)
    return piece
