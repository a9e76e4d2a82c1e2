"""A corner of three walls with random texture: cheap to render, rich in features, poses known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fit3d_cli.capture.sources.base import SOURCES, Source

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
Array = NDArray[np.float64]


def _texture(seed: int) -> Array:
    """``[512, 512]`` grey, noise of several sizes."""
    generator = np.random.default_rng(seed)
    total = np.zeros((512, 512))
    for size in (16, 64):
        noise = generator.random((size, size))
        total += np.kron(noise, np.ones((512 // size, 512 // size)))
    total -= total.min()
    return np.asarray(total / total.max())


class Corner:
    """Renders the walls x = 0, y = 0 and z = 0, each of 4 x 4 units."""

    def __init__(self) -> None:
        self.textures = [_texture(seed) for seed in range(3)]

    def pose(self, angle: float) -> Array:
        """``[4, 4]`` camera to world, OpenCV axes: on an arc, looking at the corner."""
        eye = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), 1.8 + 0.5 * np.sin(3 * angle)])
        forward = np.array([0.9, 0.9, 0.8]) - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = eye
        return pose

    def render(self, angle: float, width: int = WIDTH) -> NDArray[np.uint8]:
        """``[H, W, 3]`` picture."""
        height = HEIGHT * width // WIDTH
        pose = self.pose(angle)
        y, x = np.mgrid[:height, :width] + 0.5
        focal = FOCAL * width / WIDTH
        rays = np.stack([(x - width / 2) / focal, (y - height / 2) / focal, np.ones_like(x)], -1)
        rays = rays @ pose[:3, :3].T
        eye = pose[:3, 3]
        distance = -eye / np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        distance[distance <= 0] = np.inf
        wall = distance.argmin(-1)
        points = eye + rays * distance.min(-1)[..., None]
        grey = np.zeros((height, width))
        for axis, texture in enumerate(self.textures):
            u, v = (points[..., other] for other in range(3) if other != axis)
            at = [np.clip((c * 128).astype(int), 0, 511) for c in (u, v)]
            grey = np.where(wall == axis, texture[at[0], at[1]], grey)
        tint = np.array([[1.0, 0.8, 0.6], [0.6, 1.0, 0.8], [0.8, 0.6, 1.0]])[wall]
        return np.asarray(255 * grey[..., None] * tint, np.uint8)


@pytest.fixture(scope="session")
def corner() -> Corner:
    return Corner()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a source of one's own into the registry for the length of a test."""

    def add(name: str, make: Callable[..., None], **more: object) -> None:
        SOURCES.names()  # loads the real ones first
        source = Source(
            f"a .{name} file", lambda path: path.suffix == f".{name}", make, lambda path: [path]
        )
        monkeypatch.setitem(SOURCES._entries, name, replace(source, **more))  # type: ignore[arg-type]

    yield add


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A file of the source ``fake``."""
    path = tmp_path / "hall.fake"
    path.write_text("content")
    return path
