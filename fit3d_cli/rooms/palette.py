"""Colours and materials of a room, drawn once so that its furniture belongs together."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fit3d_cli.rooms.primitives import Color, Material


def srgb(code: str) -> Color:
    """Linear RGB of a six-digit sRGB hex code (gamma 2.2, as the renderer's output)."""
    r, g, b = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return (r**2.2, g**2.2, b**2.2)


def _group(codes: str) -> tuple[Color, ...]:
    return tuple(srgb(code) for code in codes.split())


WOODS = tuple(
    _group(pair)
    for pair in (
        "c89b6a a87848", "8a5a3a 6a4028", "dcc09a c4a070", "5c3d2e 452c20", "b5713f 94572c",
        "e6d8c2 d2bf9f", "9c8468 7e6850",
    )
)  # fmt: skip
WALLS = _group(
    "ece4d4 d9e0dc e8d9c8 cfd8e0 e9e3ea d8dfc8 f0ebe0 d5c6b8 c9d6cf e6cfc0 bfcbd6 efe2bb"
)
ACCENTS = _group(
    "b5493a 2f6690 d9a441 4f7a4a 7a4a6f 2a8c82 c96f4a 3c4a6b a33b54 6d8f3f e0c25c 8a8f98"
)
SOFT = _group("d7ccb9 a9b4ba 8c9a8a c7b0a0 77808c e2ded4 b9a88c 9c8fa6")
METALS = _group("3a3b3e b9bcc0 8c7a54 d8d8d6")
WHITE = srgb("f2f0ea")
BOOKS = _group("8c2f2f 2f4c7a 35694a c9a24a 55406e d8d0c0 2b2b30 b5603a 5f8ea0 7a6a50")
LEAVES = (_group("3f7a3a 74a650"), _group("2f5f3f 4f8a5a"), _group("6a8f3a a3bf5f"))


@dataclass(frozen=True)
class Palette:
    """The materials that a room's furniture shares.

    Attributes:
        wood: Main wood.
        second: Another wood or a painted board.
        metal: Legs and lamp posts.
        fabrics: Two upholstery materials.
        accents: Three colours for cushions, vases and pictures.
    """

    wood: Material
    second: Material
    metal: Material
    fabrics: tuple[Material, Material]
    accents: tuple[Color, Color, Color]


def draw_palette(rng: random.Random) -> Palette:
    """Draw the shared materials of one room."""
    first, second = rng.sample(WOODS, 2)
    accents = rng.sample(ACCENTS, 3)
    painted = Material("plain", (rng.choice((WHITE, WHITE, *SOFT)),), seed=rng.randrange(999))
    return Palette(
        wood=Material("wood", first, 0.11, rng.randrange(999)),
        second=rng.choice((Material("wood", second, 0.11, rng.randrange(999)), painted)),
        metal=Material("plain", (rng.choice(METALS),), seed=rng.randrange(999)),
        fabrics=(fabric(rng, rng.choice((*SOFT, *accents))), fabric(rng, rng.choice(accents))),
        accents=(accents[0], accents[1], accents[2]),
    )


def fabric(rng: random.Random, color: Color) -> Material:
    """A woven, striped, checked or dotted cloth of about the given colour."""
    darker = tuple(0.45 * c for c in color)
    lighter = tuple(0.55 * c + 0.4 for c in color)
    kind = rng.choice(("fabric", "fabric", "fabric", "plaid", "stripes", "dots"))
    scale = {"fabric": 0.07, "plaid": 0.16, "stripes": 0.13, "dots": 0.14}[kind]
    other = darker if kind == "fabric" else rng.choice((darker, lighter))
    colors = (color, (other[0], other[1], other[2]))
    return Material(kind, colors, scale * rng.uniform(0.8, 1.4), rng.randrange(999))


def floor_material(rng: random.Random) -> Material:
    """Planks, tiles or carpet."""
    kind = rng.choice(("planks", "planks", "planks", "tiles", "fabric"))
    if kind == "planks":
        return Material(kind, rng.choice(WOODS), rng.uniform(0.12, 0.2), rng.randrange(999))
    if kind == "tiles":
        first = rng.choice((*SOFT, WHITE))
        second = rng.choice((tuple(0.85 * c for c in first), rng.choice(SOFT)))
        colors = (first, (second[0], second[1], second[2]))
        return Material(kind, colors, rng.uniform(0.3, 0.5), rng.randrange(999))
    color = rng.choice(SOFT)
    return Material(kind, (color, tuple(0.5 * c for c in color)), 0.12, rng.randrange(999))  # type: ignore[arg-type]


def wall_materials(rng: random.Random) -> list[Material]:
    """Four walls: usually alike, sometimes with a dado, and perhaps one feature wall."""
    base = rng.choice(WALLS)
    trim = rng.choice((WHITE, rng.choice(SOFT)))
    if rng.random() < 0.3:
        dado = rng.choice(SOFT)
        plain = Material(
            "wallpaper", (base, dado, trim), rng.uniform(0.75, 1.0), rng.randrange(999)
        )
    else:
        plain = Material("plain", (base,), seed=rng.randrange(999))
    walls = [plain] * 4
    accent = rng.choice(ACCENTS)
    pale = tuple(0.3 * a + 0.7 * b for a, b in zip(accent, base, strict=True))
    soft = (pale[0], pale[1], pale[2])
    feature = rng.choice((
        None,
        Material("brick", (*_group("a8593f c47a58"), srgb("cfc4b4")), 0.3, rng.randrange(999)),
        Material("brick", (*_group("d8d4cc ebe7df"), srgb("bdb6aa")), 0.3, rng.randrange(999)),
        Material("stripes", (base, soft), rng.uniform(0.25, 0.5), rng.randrange(999)),
        Material("dots", (base, soft), rng.uniform(0.25, 0.4), rng.randrange(999)),
        Material("plain", (soft,), seed=rng.randrange(999)),
    ))  # fmt: skip
    if feature is not None:
        walls[rng.randrange(4)] = feature
    return walls
