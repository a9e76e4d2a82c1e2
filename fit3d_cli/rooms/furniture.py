"""Large furniture, each piece in its own frame (see ``pieces``)."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np

from fit3d_cli.rooms.objects import tabletop, vessel
from fit3d_cli.rooms.palette import BOOKS, SOFT, WHITE, Palette, fabric, srgb
from fit3d_cli.rooms.pieces import LABEL, Piece
from fit3d_cli.rooms.primitives import Material


def _legs(piece: Piece, w: float, d: float, h: float, thick: float, m: Material) -> None:
    slim = piece.label == LABEL["table"] and thick < 0.05
    for x in (-1.0, 1.0):
        for y in (-1.0, 1.0):
            at = (x * (w / 2 - thick), y * (d / 2 - thick))
            if slim:
                piece.round((*at, 0), thick * 0.4, h, m, top=thick * 0.6)
            else:
                piece.box((*at, h / 2), (thick, thick, h), m)


def table(rng: random.Random, palette: Palette, w: float, d: float, h: float) -> Piece:
    """A table or desk, rectangular or round, bare."""
    piece = Piece(LABEL["table"], (w, d, h))
    top = rng.choice((palette.wood, palette.second, palette.second))
    if rng.random() < 0.12:
        top = Material("marble", (WHITE, rng.choice(SOFT)), 0.35, rng.randrange(999))
    if abs(w - d) < 0.1 and rng.random() < 0.7:
        piece.round((0, 0, h - 0.04), w / 2, 0.04, top)
        piece.round((0, 0, 0.03), 0.05, h - 0.07, palette.metal)
        piece.round((0, 0, 0), 0.28 * w, 0.03, palette.metal)
        return piece
    piece.box((0, 0, h - 0.025), (w, d, 0.05), top)
    legs = rng.choice((top, palette.metal))
    _legs(piece, w - 0.06, d - 0.06, h - 0.05, rng.choice((0.04, 0.07)), legs)
    return piece


def chair(rng: random.Random, palette: Palette) -> Piece:
    """A dining or office chair with its back at -y."""
    piece = Piece(LABEL["chair"], (0.48, 0.5, 0.95))
    frame = rng.choice((palette.wood, palette.second, palette.metal))
    seat = rng.choice((frame, *palette.fabrics))
    piece.box((0, 0, 0.45), (0.46, 0.46, 0.06), seat, bevel=0.03)
    if rng.random() < 0.25:
        piece.round((0, 0, 0.06), 0.03, 0.38, palette.metal)
        for k in range(3):
            piece.box((0, 0, 0.04), (0.5, 0.05, 0.04), palette.metal, yaw=k * math.pi / 3)
    else:
        _legs(piece, 0.44, 0.44, 0.42, 0.045, frame)
    if rng.random() < 0.5:
        piece.box((0, -0.22, 0.73), (0.44, 0.05, 0.42), seat, pitch=0.12, bevel=0.03)
    else:
        for x in (-0.2, 0.2):
            piece.box((x, -0.22, 0.7), (0.04, 0.04, 0.5), frame, pitch=0.1)
        for z in (0.62, 0.76, 0.9):
            piece.box((0, -0.215 - 0.1 * (z - 0.7), z), (0.4, 0.025, 0.075), frame, pitch=0.1)
    return piece


def sofa(rng: random.Random, palette: Palette) -> Piece:
    """A sofa or armchair with cushions."""
    seats = rng.choice((1, 2, 2, 3))
    w, d = 0.62 * seats + 0.4, 0.88
    piece = Piece(LABEL["sofa"], (w, d, 0.85))
    cloth = palette.fabrics[0]
    base = replace(cloth, seed=cloth.seed + 1)
    piece.box((0, 0, 0.22), (w - 0.1, d - 0.04, 0.24), base, bevel=0.03)
    piece.box((0, -d / 2 + 0.1, 0.55), (w - 0.1, 0.2, 0.62), base, pitch=0.1, bevel=0.07)
    for x in (-1.0, 1.0):
        piece.box((x * (w / 2 - 0.1), 0, 0.36), (0.2, d, 0.52), base, bevel=0.07)
        for y in (-1.0, 1.0):
            piece.round((x * (w / 2 - 0.1), y * (d / 2 - 0.1), 0), 0.025, 0.1, palette.wood)
    for k in range(seats):
        x = 0.62 * (k - (seats - 1) / 2)
        piece.box((x, 0.07, 0.4), (0.6, d - 0.2, 0.16), cloth, bevel=0.06)
        piece.box((x, -0.2, 0.64), (0.58, 0.16, 0.4), cloth, pitch=0.2, bevel=0.06)
    for x in (-1.0, 1.0)[: rng.choice((0, 1, 2))]:
        pillow = fabric(rng, rng.choice(palette.accents))
        at = (x * (0.31 * seats - 0.2), -0.02, 0.64)
        piece.blob(at, (0.21, 0.09, 0.19), pillow, pitch=0.35, yaw=-0.35 * x)
    return piece


def bed(rng: random.Random, palette: Palette) -> Piece:
    """A single or double bed, its head at -y."""
    w, d = rng.choice((1.0, 1.5, 1.7)), 2.05
    piece = Piece(LABEL["bed"], (w, d, 0.95))
    sheet = Material("fabric", (WHITE, rng.choice(SOFT)), 0.1, rng.randrange(999))
    cover = fabric(rng, rng.choice(palette.accents))
    piece.box((0, 0, 0.2), (w, d, 0.2), palette.wood)
    _legs(piece, w, d, 0.12, 0.07, palette.wood)
    piece.box((0, 0.01, 0.4), (w - 0.06, d - 0.08, 0.22), sheet, bevel=0.07)
    piece.box((0, 0.32, 0.46), (w, d - 0.66, 0.16), cover, bevel=0.06)
    fold = Material("plain", (WHITE,), seed=rng.randrange(999))
    piece.box((0, -0.36, 0.47), (w + 0.01, 0.3, 0.16), fold, bevel=0.06)
    piece.box((0, -d / 2 + 0.03, 0.55), (w + 0.06, 0.06, 0.8), palette.wood, bevel=0.02)
    count = 1 if w < 1.2 else 2
    for k in range(count):
        x = (k - (count - 1) / 2) * 0.7
        pillow = rng.choice((sheet, fabric(rng, rng.choice(palette.accents))))
        piece.blob((x, -0.75, 0.58), (0.33, 0.21, 0.11), pillow, pitch=-0.25)
    return piece


def shelf(rng: random.Random, palette: Palette) -> Piece:
    """A bookcase with books and small things, or a chest of drawers."""
    if rng.random() < 0.3:
        return _drawers(rng, palette)
    w, d, h = rng.uniform(0.8, 1.4), 0.34, rng.choice((1.1, 1.5, 1.9))
    piece = Piece(LABEL["shelf"], (w, d, h))
    board = rng.choice((palette.wood, palette.second))
    rows = round(h / 0.38)
    step = (h - 0.06) / rows
    piece.box((0, -d / 2 + 0.01, h / 2), (w, 0.02, h), board, bevel=0)
    for x in (-1.0, 1.0):
        piece.box((x * (w / 2 - 0.015), 0, h / 2), (0.03, d, h), board, bevel=0.006)
    for row in range(rows + 1):
        piece.box((0, 0, 0.05 + row * step - 0.015), (w - 0.05, d, 0.03), board, bevel=0.006)
    for row in range(rows):
        z, x = 0.05 + row * step, -w / 2 + 0.05
        while x < w / 2 - 0.2:
            run = min(rng.uniform(0.16, 0.5), w / 2 - 0.04 - x)
            choice = rng.random()
            if choice < 0.62:
                tall = step * rng.uniform(0.6, 0.85)
                spines = Material(
                    "books", tuple(rng.sample(BOOKS, 5)), rng.uniform(0.035, 0.055),
                    rng.randrange(9999),
                )  # fmt: skip
                piece.box((x + run / 2, -0.02, z + tall / 2), (run, 0.22, tall), spines, bevel=0)
            elif choice < 0.8:
                thing = vessel(rng, palette, min(0.6 * step, 0.2))
                piece.add(thing, (x + run / 2, 0, z))
            x += run + rng.uniform(0.02, 0.12)
    return piece


def _drawers(rng: random.Random, palette: Palette) -> Piece:
    w, d, h = rng.uniform(0.8, 1.3), 0.45, rng.choice((0.5, 0.8, 1.0))
    piece = Piece(LABEL["shelf"], (w, d, h))
    body, front = rng.choice(((palette.wood, palette.second), (palette.second, palette.wood)))
    piece.box((0, -0.01, h / 2 + 0.03), (w, d - 0.02, h - 0.06), body)
    rows, columns = max(2, round(h / 0.27)), rng.choice((1, 2))
    tall, wide = (h - 0.1) / rows, (w - 0.04) / columns
    for row in range(rows):
        for column in range(columns):
            x = (column - (columns - 1) / 2) * wide
            z = 0.08 + (row + 0.5) * tall
            piece.box((x, d / 2 - 0.015, z), (wide - 0.025, 0.03, tall - 0.025), front, bevel=0.01)
            piece.box((x, d / 2 + 0.01, z), (0.14, 0.025, 0.025), palette.metal)
    for _ in range(rng.choice((1, 2, 3))):
        at = (rng.uniform(-0.4, 0.4) * w, rng.uniform(-0.1, 0.05), h)
        piece.add(tabletop(rng, palette), at, rng.uniform(-0.4, 0.4))
    return piece


def floor_lamp(rng: random.Random, palette: Palette) -> Piece:
    """A standing lamp with a lit shade."""
    h = rng.uniform(1.45, 1.7)
    piece = Piece(LABEL["lamp"], (0.4, 0.4, h))
    piece.round((0, 0, 0), 0.15, 0.03, palette.metal)
    piece.round((0, 0, 0.03), 0.014, h - 0.25, palette.metal)
    shade = Material("plain", (srgb(rng.choice(("ffe9c4", "ffdcae", "f6e6d0"))),), glow=1.0)
    piece.round((0, 0, h - 0.3), 0.2, 0.3, shade, top=rng.uniform(0.1, 0.2), casts=False)
    piece.lights.append(np.array([0, 0, h - 0.15]))
    return piece
