"""Convex solids with analytic ray intersections: boxes, frustums, ellipsoids.

A ray is ``origin + t * direction``; directions need not have unit length, so with
directions whose camera z is 1 the parameter ``t`` is the depth itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        kind: Name of a texture in ``textures.TEXTURES``.
        colors: One or more linear RGB albedos, 0 to 1; what each means depends on ``kind``.
        scale: Size of the texture's feature in metres.
        seed: Decorrelates two surfaces of the same kind.
        glow: Emitted light relative to the albedo; 0 for ordinary surfaces.
    """

    kind: str
    colors: tuple[Color, ...]
    scale: float = 0.1
    seed: int = 0
    glow: float = 0.0


@dataclass(frozen=True, eq=False)
class Solid:
    """One convex solid.

    Attributes:
        kind: ``box``, ``frustum`` (axis along local z) or ``ellipsoid``.
        center: ``[3]`` world position, metres.
        rotation: ``[3, 3]`` world from local.
        half: ``[3]`` half sizes; a frustum reads (radius at mid height, -, half height).
        material: Its look.
        label: Index into ``CLASSES``.
        taper: Frustum only: growth of the radius per metre of height.
        bevel: Box only: width in metres over which the shading normal is rounded at edges.
        casts: Whether it blocks light.
    """

    kind: Literal["box", "frustum", "ellipsoid"]
    center: Array
    rotation: Array
    half: Array
    material: Material
    label: int
    taper: float = 0.0
    bevel: float = 0.0
    casts: bool = True

    @property
    def bounds(self) -> Array:
        """``[3]`` half sizes of the local bounding box."""
        if self.kind != "frustum":
            return self.half
        radius = self.half[0] + abs(self.taper) * self.half[2]
        return np.array([radius, radius, self.half[2]])

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about ``center``."""
        return float(np.linalg.norm(self.bounds))

    def corners(self) -> Array:
        """``[8, 3]`` world corners of the bounding box."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        result: Array = (signs * self.bounds) @ self.rotation.T + self.center
        return result

    def to_local(self, points: Array) -> Array:
        """World points ``[..., 3]`` in the local frame, same dtype."""
        result: Array = (points - self.center.astype(points.dtype)) @ self.rotation.astype(
            points.dtype
        )
        return result

    def interval(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """Where rays are inside the solid.

        Args:
            origins: ``[..., 3]`` or ``[3]`` world points.
            directions: ``[..., 3]`` world directions.

        Returns:
            ``(enter, leave)``, each ``[...]``; ``enter > leave`` means a miss.
        """
        o = self.to_local(origins)
        d = directions @ self.rotation.astype(directions.dtype)
        # A direction exactly parallel to a face would give 0 / 0.
        tiny = np.asarray(1e-12, d.dtype)
        d = np.where(np.abs(d) < tiny, tiny, d)
        half = self.half.astype(d.dtype)
        if self.kind == "ellipsoid":
            return _sphere(o / half, d / half)
        if self.kind == "box":
            return _slabs(o, d, half)
        return _frustum(o, d, float(half[0]), float(half[2]), self.taper)

    def normals(self, local: Array) -> tuple[Array, Array]:
        """Geometric and shading normals at local surface points ``[N, 3]``, both local."""
        half = self.half.astype(local.dtype)
        if self.kind == "ellipsoid":
            normal = _unit(local / (half * half))
            return normal, normal
        if self.kind == "box":
            axis = np.argmax(np.abs(local) / half, axis=1)
            normal = np.zeros_like(local)
            rows = np.arange(len(local))
            normal[rows, axis] = np.where(local[rows, axis] < 0, -1, 1)
            if self.bevel <= 0:
                return normal, normal
            bevel = np.minimum(self.bevel, half)
            over = np.maximum(np.abs(local) - (half - bevel), 0) / bevel
            return normal, _unit(np.sign(local) * over * over + 1e-6 * normal)
        radial = np.hypot(local[:, 0], local[:, 1])
        side = half[0] + self.taper * local[:, 2]
        cap = half[2] - np.abs(local[:, 2]) < side - radial
        normal = np.stack([local[:, 0], local[:, 1], -self.taper * radial], axis=1)
        flat = np.zeros_like(local)
        flat[:, 2] = np.where(local[:, 2] < 0, -1, 1)
        normal = np.where(cap[:, None], flat, _unit(normal))
        return normal, normal


def dot(first: Array, second: Array) -> Array:
    """Dot products over the last axis, ``[...]``; much faster than ``sum(-1)`` for size 3."""
    result: Array = np.einsum("...i,...i->...", first, second)
    return result


def yaw_matrix(angle: float) -> Array:
    """``[3, 3]`` rotation by ``angle`` radians about the world's z axis (up)."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def pitch_matrix(angle: float) -> Array:
    """``[3, 3]`` rotation by ``angle`` radians about the x axis."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _unit(vectors: Array) -> Array:
    result: Array = vectors / np.maximum(np.sqrt(dot(vectors, vectors)), 1e-12)[..., None]
    return result


def _sphere(o: Array, d: Array) -> tuple[Array, Array]:
    a, b, c = dot(d, d), dot(np.broadcast_to(o, d.shape), d), dot(o, o) - 1
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    hit = disc > 0
    return np.where(hit, (-b - root) / a, np.inf), np.where(hit, (-b + root) / a, -np.inf)


def _slabs(o: Array, d: Array, half: Array) -> tuple[Array, Array]:
    inverse = 1 / d
    middle = -o * inverse
    reach = half * np.abs(inverse)
    near, far = middle - reach, middle + reach
    enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), near[..., 2])
    leave = np.minimum(np.minimum(far[..., 0], far[..., 1]), far[..., 2])
    return enter, leave


def _frustum(o: Array, d: Array, radius: float, half: float, taper: float) -> tuple[Array, Array]:
    """Interval inside ``x^2 + y^2 <= (radius + taper z)^2`` and ``|z| <= half``."""
    middle, reach = -o[..., 2] / d[..., 2], half / np.abs(d[..., 2])
    enter, leave = middle - reach, middle + reach
    width = radius + taper * o[..., 2]
    slope = taper * d[..., 2]
    a = d[..., 0] ** 2 + d[..., 1] ** 2 - slope**2
    a = np.where(np.abs(a) < 1e-12, np.asarray(1e-12, a.dtype), a)
    b = o[..., 0] * d[..., 0] + o[..., 1] * d[..., 1] - width * slope
    c = o[..., 0] ** 2 + o[..., 1] ** 2 - width**2
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    low, high = np.minimum((-b - root) / a, (-b + root) / a), (-b + root) / a
    high = np.maximum((-b - root) / a, high)
    inside_between = a > 0
    # For rays steeper than the cone the inside is two half lines, and only the one on the
    # nappe of positive radius meets the slab.
    first = np.minimum(leave, low) > enter
    enter = np.where(
        inside_between, np.maximum(enter, low), np.where(first, enter, np.maximum(enter, high))
    )
    leave = np.where(
        inside_between, np.minimum(leave, high), np.where(first, np.minimum(leave, low), leave)
    )
    miss = (disc <= 0) & inside_between
    return np.where(miss, np.inf, enter), np.where(miss, -np.inf, leave)
