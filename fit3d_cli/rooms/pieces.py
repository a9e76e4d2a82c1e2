"""The semantic classes, and a piece of furniture while it is being built.

Frame of a piece: origin on the floor under its middle, x along its width, +y its front
(the side that faces the room when the piece stands at a wall), z up; metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fit3d_cli.rooms.primitives import Array, Material, Solid, pitch_matrix, yaw_matrix

CLASSES: tuple[str, ...] = (
    "wall", "floor", "ceiling", "table", "chair", "sofa", "bed", "shelf", "lamp", "plant",
    "panel", "clutter",
)  # fmt: skip
"""Semantic labels by index; a panel is a door, a window or a picture."""

LABEL = {name: index for index, name in enumerate(CLASSES)}
Vector = Sequence[float]


@dataclass
class Piece:
    """A piece of furniture while it is being built.

    Attributes:
        solids: In the frame of the piece.
        label: Label of the solids that are added next.
        size: ``(width, depth, height)`` of the room it takes.
        lights: Points that emit light, in the frame of the piece.
    """

    label: int
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    solids: list[Solid] = field(default_factory=list)
    lights: list[Array] = field(default_factory=list)

    def box(
        self, center: Vector, size: Vector, material: Material, *,
        yaw: float = 0.0, pitch: float = 0.0, bevel: float = 0.015, label: int | None = None,
    ) -> None:  # fmt: skip
        """Add a box of full ``size`` about ``center``."""
        rotation = yaw_matrix(yaw) @ pitch_matrix(pitch)
        self.solids.append(Solid(
            "box", np.array(center, float), rotation, np.array(size, float) / 2, material,
            self.label if label is None else label, bevel=bevel,
        ))  # fmt: skip

    def round(
        self, base: Vector, radius: float, height: float, material: Material, *,
        top: float | None = None, casts: bool = True, tilt: float = 0.0, yaw: float = 0.0,
        label: int | None = None,
    ) -> None:  # fmt: skip
        """Add a frustum standing on ``base``, from ``radius`` to ``top`` radius."""
        top = radius if top is None else top
        rotation = yaw_matrix(yaw) @ pitch_matrix(tilt)
        center = np.array(base, float) + rotation @ np.array([0, 0, height / 2])
        middle = (radius + top) / 2
        self.solids.append(Solid(
            "frustum", center, rotation, np.array([middle, middle, height / 2]), material,
            self.label if label is None else label, (top - radius) / height, casts=casts,
        ))  # fmt: skip

    def blob(
        self, center: Vector, half: Vector, material: Material, *,
        yaw: float = 0.0, pitch: float = 0.0, casts: bool = True, label: int | None = None,
    ) -> None:  # fmt: skip
        """Add an ellipsoid."""
        rotation = yaw_matrix(yaw) @ pitch_matrix(pitch)
        self.solids.append(Solid(
            "ellipsoid", np.array(center, float), rotation, np.array(half, float), material,
            self.label if label is None else label, casts=casts,
        ))  # fmt: skip

    def add(self, other: Piece, offset: Vector, yaw: float = 0.0) -> None:
        """Put another piece on or beside this one."""
        self.solids.extend(other.placed(offset, yaw))
        turn = yaw_matrix(yaw)
        self.lights.extend(turn @ light + np.array(offset) for light in other.lights)

    def placed(self, offset: Vector, yaw: float) -> list[Solid]:
        """The solids moved by ``yaw`` about z, then by ``offset``."""
        turn, shift = yaw_matrix(yaw), np.array(offset, float)
        return [
            replace(s, center=turn @ s.center + shift, rotation=turn @ s.rotation)
            for s in self.solids
        ]
