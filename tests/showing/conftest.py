"""Pictures with an object in the middle, and a backbone that sees mean colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.capture.photos import Photos
from fit3d_cli.images import save_png
from fit3d_cli.showing.sampling import Viewer

CPU = torch.device("cpu")


@dataclass
class FakeBackbone:
    """Tokens are a fixed linear function of each patch's mean colour."""

    channels: int = 6
    patch_size: int = 8
    device: torch.device = CPU
    gain: float = 1.0
    calls: list[int] = field(default_factory=list)

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        scale = target_width / width / self.patch_size
        sides = [max(1, round(side * scale)) * self.patch_size for side in (width, height)]
        return sides[0], sides[1]

    def tokens(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        cells = torch.nn.functional.avg_pool2d(images, self.patch_size).permute(0, 2, 3, 1)
        weight = torch.randn(3, self.channels, generator=torch.Generator().manual_seed(0))
        return cells @ weight * self.gain


def disc(seed: int, width: int = 96, height: int = 64) -> np.ndarray:  # type: ignore[type-arg]
    """A red disc near the middle of a noisy blue ground."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 2] = 200
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2 - 2 * seed) ** 2 + (y - height / 2) ** 2 < (height / 3.2) ** 2
    picture[inside] = (210, 30, 20)
    noise = rng.integers(-12, 13, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    names = ("a.png", "b.png", "<i>c</i>.png")
    paths = [tmp_path / "photos" / name.replace("/", "_") for name in names]
    for seed, path in enumerate(paths):
        save_png(path, disc(seed))
    return Photos(tuple(paths), names)


@pytest.fixture
def model() -> FakeBackbone:
    return FakeBackbone()


@pytest.fixture
def viewer(model: FakeBackbone) -> Viewer:
    return Viewer([("base", model)], 96, 2)


@pytest.fixture
def pair() -> Viewer:
    return Viewer([("base", FakeBackbone()), ("tuned", FakeBackbone(gain=2.0))], 96, 2)
