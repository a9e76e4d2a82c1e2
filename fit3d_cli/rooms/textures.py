"""Procedural textures: linear RGB albedo from a point on a solid.

Every texture is a pure function of the local point, so all views of a surface agree.
Features are several centimetres wide: what is finer than a pixel would only alias.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fit3d_cli.rooms.primitives import Array, Material, Solid


def albedo(solid: Solid, local: Array, normals: Array) -> Array:
    """Albedo of surface points.

    Args:
        solid: The solid that was hit.
        local: ``[N, 3]`` points in its frame.
        normals: ``[N, 3]`` geometric normals in its frame.

    Returns:
        ``[N, 3]`` linear RGB, 0 to 1.
    """
    axis = np.argmax(np.abs(normals), axis=1)
    u = np.where(axis == 0, local[:, 1], local[:, 0])
    v = np.where(axis == 2, local[:, 1], local[:, 2])
    half = solid.half.astype(local.dtype)
    half_u = np.where(axis == 0, half[1], half[0])
    half_v = np.where(axis == 2, half[1], half[2])
    texture = TEXTURES[solid.material.kind]
    result = texture(solid.material, local, half, (u, v), (u / half_u, v / half_v))
    return np.clip(result, 0, 1)


UV = tuple[Array, Array]
Texture = Callable[[Material, Array, Array, UV, UV], Array]


def _hash(seed: int, *cells: Array) -> Array:
    """Uniform [0, 1) numbers from integer cells (multiply-xorshift mixing)."""
    h = np.full(cells[0].shape, (seed * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF, np.uint32)
    for cell in cells:
        h = (h ^ cell.astype(np.int32).view(np.uint32)) * np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
    h = h * np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    result: Array = h.astype(np.float32) * np.float32(2.0**-32)
    return result


def _noise(seed: int, *coords: Array) -> Array:
    """Smooth value noise in [0, 1] with cells of size 1, in 1 to 3 dimensions."""
    cells = [np.floor(c) for c in coords]
    fractions = [c - cell for c, cell in zip(coords, cells, strict=True)]
    weights = [f * f * (3 - 2 * f) for f in fractions]
    total = np.zeros_like(coords[0])
    for corner in range(2 ** len(coords)):
        bits = [corner >> k & 1 for k in range(len(coords))]
        value = _hash(seed, *(cell + bit for cell, bit in zip(cells, bits, strict=True)))
        for w, bit in zip(weights, bits, strict=True):
            value = value * (w if bit else 1 - w)
        total = total + value
    return total


def _mix(first: tuple[float, ...], second: tuple[float, ...], t: Array) -> Array:
    a, b = np.asarray(first, t.dtype), np.asarray(second, t.dtype)
    result: Array = a + (b - a) * t[:, None]
    return result


def _over(base: Array, color: tuple[float, ...], t: Array) -> Array:
    result: Array = base + (np.asarray(color, base.dtype) - base) * t[:, None]
    return result


def _tint(color: tuple[float, ...], gain: Array) -> Array:
    result: Array = np.asarray(color, gain.dtype) * gain[:, None]
    return result


def _gap(coord: Array, period: float, width: float) -> Array:
    """1 inside a soft line of ``width`` around multiples of ``period``, 0 elsewhere."""
    distance = np.abs(coord / period - np.round(coord / period)) * period
    result: Array = np.clip(1.5 - distance / width, 0, 1)
    return result


def _plain(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    return _tint(m.colors[0], 0.94 + 0.12 * _noise(m.seed, *(p / 0.35).T))


def _fabric(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    u, v = uv[0] / m.scale, uv[1] / m.scale
    weave = 0.5 + 0.25 * (np.sin(math.tau * u) + np.sin(math.tau * v))
    heather = _noise(m.seed, *(p / (1.5 * m.scale)).T)
    return _mix(m.colors[0], m.colors[-1], np.clip(0.3 * weave + 0.7 * heather, 0, 1) * 0.55)


def _wood(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    stretch = np.full(3, 1 / m.scale)
    stretch[int(np.argmax(half))] *= 0.12  # the grain runs along the piece
    q = p * stretch.astype(p.dtype)
    rings = _noise(m.seed, *(q * 0.8).T)
    grain = 0.5 + 0.5 * np.sin(14 * rings)
    return _mix(m.colors[0], m.colors[-1], 0.75 * grain + 0.25 * rings)


def _planks(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    u, v = uv
    row = np.floor(v / m.scale)
    length = 8 * m.scale
    shifted = u + length * _hash(m.seed, row)
    tone = _hash(m.seed + 1, row, np.floor(shifted / length))
    grain = _noise(m.seed + 2, u / (4 * m.scale) + 40 * tone, v * 5 / m.scale)
    joint = np.maximum(_gap(v, m.scale, 0.006), _gap(shifted, length, 0.006))
    base = _mix(m.colors[0], m.colors[1], np.clip(0.65 * tone + 0.35 * grain, 0, 1))
    return base * (1 - 0.55 * joint)[:, None]


def _tiles(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    u, v = uv
    cell_u, cell_v = np.floor(u / m.scale), np.floor(v / m.scale)
    odd = (cell_u + cell_v) % 2
    tone = 0.88 + 0.18 * _hash(m.seed, cell_u, cell_v)
    base = _mix(m.colors[0], m.colors[1], odd) * tone[:, None]
    grout = np.maximum(_gap(u, m.scale, 0.012), _gap(v, m.scale, 0.012))
    return base * (1 - 0.4 * grout)[:, None]


def _brick(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    u, v = uv
    height = m.scale * 0.45
    row = np.floor(v / height)
    shifted = u + m.scale * 0.5 * (row % 2)
    tone = _hash(m.seed, row, np.floor(shifted / m.scale))
    rough = _noise(m.seed + 1, u / 0.05, v / 0.05)
    base = _mix(m.colors[0], m.colors[1], np.clip(tone * 0.8 + rough * 0.2, 0, 1))
    mortar = np.maximum(_gap(v, height, 0.014), _gap(shifted, m.scale, 0.014))
    return _over(base, m.colors[2], mortar)


def _stripes(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    wave = np.sin(math.tau * uv[0] / m.scale)
    return _mix(m.colors[0], m.colors[1], np.clip(0.5 + 3 * wave, 0, 1))


def _plaid(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    across = np.clip(0.5 + 3 * np.sin(math.tau * uv[0] / m.scale), 0, 1)
    along = np.clip(0.5 + 3 * np.sin(math.tau * uv[1] / m.scale), 0, 1)
    return _mix(m.colors[0], m.colors[1], 0.5 * (across + along))


def _dots(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    u, v = uv[0] / m.scale, uv[1] / m.scale
    row = np.floor(v)
    du, dv = (u + 0.5 * (row % 2)) % 1 - 0.5, v - row - 0.5
    return _mix(m.colors[0], m.colors[1], np.clip((0.27 - np.hypot(du, dv)) * 12 + 0.5, 0, 1))


def _marble(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    q = p / m.scale
    warp = _noise(m.seed, *q.T)
    vein = np.abs(np.sin(2.2 * (q[:, 0] + 0.7 * q[:, 1] + 0.5 * q[:, 2]) + 7 * warp))
    return _mix(m.colors[1], m.colors[0], np.clip(vein * 2.2, 0, 1))


def _wallpaper(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    """Plaster above, a coloured dado with a rail below."""
    height = st[1] * half[2] + half[2]
    low = np.clip((m.scale - height) / 0.02, 0, 1)
    rail = np.clip(1.5 - np.abs(height - m.scale) / 0.025, 0, 1)
    board = np.clip(1 - 0.3 * _gap(uv[0], 0.22, 0.012), 0, 1)
    base = _mix(m.colors[0], m.colors[1], low) * np.where(low > 0.5, board, 1)[:, None]
    base = base * (0.96 + 0.08 * _noise(m.seed, uv[0] / 0.4, uv[1] / 0.4))[:, None]
    return _over(base, m.colors[2], rail)


def _books(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    """A row of spines with a title band on each."""
    cell = np.floor(uv[0] / m.scale)
    pick = (_hash(m.seed, cell) * len(m.colors)).astype(np.int64)
    base = np.asarray(m.colors, p.dtype)[pick]
    tone = 0.75 + 0.5 * _hash(m.seed + 1, cell)
    band = (np.abs(st[1] - 0.9 * _hash(m.seed + 2, cell) + 0.2) < 0.13).astype(p.dtype)
    base = base * tone[:, None]
    base = base + (0.75 - base) * (0.55 * band)[:, None]
    return base * (1 - 0.5 * _gap(uv[0], m.scale, 0.005))[:, None]


def _rug(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    edge = np.minimum(half[0] - np.abs(p[:, 0]), half[1] - np.abs(p[:, 1]))
    u, v = p[:, 0] / m.scale, p[:, 1] / m.scale
    diamond = np.abs(u % 1 - 0.5) + np.abs(v % 1 - 0.5)
    base = _mix(m.colors[0], m.colors[1], np.clip((diamond - 0.4) * 10, 0, 1))
    border = np.clip(1.5 - np.abs(edge - 0.14) / 0.035, 0, 1)
    base = _over(base, m.colors[2], border)
    pile = _noise(m.seed, p[:, 0] / 0.05, p[:, 1] / 0.05)
    return base * (0.88 + 0.24 * pile)[:, None]


def _painting(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    """A landscape, blocks of colour, or discs, by the seed."""
    s, t = st
    style = m.seed % 3
    if style == 0:
        base = _mix(m.colors[0], m.colors[1], 0.5 + 0.5 * t)
        sun = np.hypot(s * 1.3 - 0.5, t - 0.45) < 0.22
        base = np.where(sun[:, None], np.asarray(m.colors[2], p.dtype), base)
        for layer in range(3):
            ridge = 0.15 - 0.35 * layer + 0.5 * (_noise(m.seed + layer, 1.7 * s + 9 * layer) - 0.5)
            below = (t < ridge)[:, None]
            color = np.asarray(m.colors[(layer + 2) % len(m.colors)], p.dtype)
            base = np.where(below, color * (0.8 - 0.2 * layer), base)
        return base
    if style == 1:
        cut = 0.5 * _hash(m.seed, np.zeros(1))[0]
        column = (s > cut - 0.25).astype(p.dtype) + (s > cut + 0.35)
        row = (t > -cut).astype(p.dtype) + (t > 0.45)
        pick = (_hash(m.seed + 3, column, row) * len(m.colors)).astype(np.int64)
        return np.asarray(m.colors, p.dtype)[pick]
    base = np.broadcast_to(np.asarray(m.colors[0], p.dtype), p.shape)
    for k in range(4):
        x, y, r = (float(_hash(m.seed + 5 * k + j, np.zeros(1))[0]) for j in range(3))
        disc = np.hypot(s - 1.4 * x + 0.7, t - 1.4 * y + 0.7) < 0.2 + 0.35 * r
        base = np.where(disc[:, None], np.asarray(m.colors[(k + 1) % len(m.colors)]), base)
    return base.astype(p.dtype)


def _sky(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    """What lies outside a window: sky, clouds, a tree line."""
    t = st[1]
    base = _mix(m.colors[1], m.colors[0], np.clip(0.5 + 0.5 * t, 0, 1))
    cloud = np.clip(_noise(m.seed, uv[0] / 0.3, uv[1] / 0.14) * 2.4 - 1.3, 0, 1)
    base = base + (1 - base) * (0.8 * cloud)[:, None]
    trees = t < -0.55 + 0.35 * (_noise(m.seed + 1, uv[0] / 0.17) - 0.4)
    leaf = _mix(m.colors[2], m.colors[3], _noise(m.seed + 2, uv[0] / 0.07, uv[1] / 0.07))
    return np.where(trees[:, None], leaf, base)


def _door(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    """A leaf with two rows of recessed panels."""
    s, t = np.abs(st[0]), np.abs(st[1] - 0.02)
    du = np.abs(s - 0.45) * half[0]
    dv = np.abs(t - 0.47) * half[2]
    wide, tall = 0.3 * half[0], 0.36 * half[2]
    frame = np.maximum(du - wide, dv - tall)
    groove = np.clip(1.5 - np.abs(frame) / 0.014, 0, 1)
    return _tint(m.colors[0], (1 - 0.4 * groove) * np.where(frame < 0, 0.92, 1).astype(p.dtype))


def _leaf(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    rib = np.clip(1.2 - np.abs(p[:, 1]) / 0.012, 0, 1)
    mottle = _noise(m.seed, *(p / 0.06).T)
    return _mix(m.colors[0], m.colors[1], np.clip(0.6 * mottle + 0.4 * rib, 0, 1))


def _screen(m: Material, p: Array, half: Array, uv: UV, st: UV) -> Array:
    """A display: a window with lines of text on a coloured desktop."""
    s, t = st
    base = _mix(m.colors[0], m.colors[1], np.clip(0.5 + 0.35 * s + 0.3 * t, 0, 1))
    window = (np.abs(s + 0.2) < 0.55) & (np.abs(t) < 0.65)
    line = _hash(m.seed, np.floor(t * 7)) * 0.9 - 0.55
    ink = (np.abs((t * 7) % 1 - 0.5) < 0.25) & (s < line) & (s > -0.65)
    base = np.where(window[:, None], np.asarray([0.85, 0.87, 0.88], p.dtype), base)
    return np.where((window & ink)[:, None], np.asarray([0.15, 0.2, 0.3], p.dtype), base)


TEXTURES: dict[str, Texture] = {
    "plain": _plain, "fabric": _fabric, "wood": _wood, "planks": _planks, "tiles": _tiles,
    "brick": _brick, "stripes": _stripes, "plaid": _plaid, "dots": _dots, "marble": _marble,
    "wallpaper": _wallpaper, "books": _books, "rug": _rug, "painting": _painting, "sky": _sky,
    "door": _door, "leaf": _leaf, "screen": _screen,
}  # fmt: skip
