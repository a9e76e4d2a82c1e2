"""Drift over pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.images import save_png
from fit3d_cli.probing.drift import measure_drift
from fit3d_cli.progress import Progress
from fit3d_cli.report import Figure
from fit3d_cli.settings import BackboneSettings, ProbeSettings


@dataclass
class Fake:
    """Two channels: the patch's red, and a constant; turned by a matrix."""

    turn: Tensor
    patch: int = 8
    name: str = "fake"
    identity: str = "fake"
    seen: int = 0

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        return target_width, target_width

    def tokens_and_cls(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(images)
        red = torch.nn.functional.avg_pool2d(images[:, :1], self.patch)[:, 0]
        tokens = torch.stack([red, torch.ones_like(red)], dim=-1) @ self.turn.T
        return tokens, tokens.mean((1, 2))


EYE = torch.eye(2)
QUARTER = torch.tensor([[0.0, -1.0], [1.0, 0.0]])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(7)]
    for index, path in enumerate(paths):
        save_png(path, np.full((16, 16, 3), 30 * index, dtype=np.uint8))
    return paths


def measure(base: Fake, tuned: Fake, pictures: list[Path], images: int = 5) -> dict[str, Figure]:
    settings = ProbeSettings(drift_images=images, backbone=BackboneSettings(width=16, batch=2))
    events: list[Progress] = []
    found = measure_drift(base, tuned, pictures, settings, device="cpu", seed=0,
                          on_event=events.append)  # fmt: skip
    assert all(0 <= event.done <= event.total for event in events)
    assert not events or events[-1].done == events[-1].total
    return found


def test_over_pictures(pictures: list[Path]) -> None:
    same = measure(Fake(EYE), Fake(EYE), pictures)
    assert (same["cosine"].value, same["norm_ratio"].value) == pytest.approx((1, 1))
    turned = measure(Fake(EYE), Fake(2 * QUARTER), pictures)
    assert turned["cosine"].value == pytest.approx(0, abs=1e-3)
    assert turned["norm_ratio"].value == pytest.approx(2, rel=1e-3)
    assert turned["norm_ratio"].n == 5 and turned["norm_ratio"].has_interval
    # Swapped channels: the cosine depends on the picture, 2 r / (r^2 + 1).
    base, tuned = Fake(EYE), Fake(EYE.flip(0))
    mixed = measure(base, tuned, pictures, images=3)
    reds = [30 * index / 255 for index in (1, 3, 5)]
    assert mixed["cosine"].value == pytest.approx(
        sum(2 * r / (r * r + 1) for r in reds) / 3, abs=1e-3
    )
    assert mixed["cosine"].low < mixed["cosine"].value < mixed["cosine"].high
    assert base.seen == tuned.seen == 3
    assert mixed == measure(Fake(EYE), Fake(EYE.flip(0)), pictures, images=3)


def test_more_pictures_than_there_are(pictures: list[Path]) -> None:
    assert measure(Fake(EYE), Fake(EYE), pictures, images=99)["cosine"].n == 7
    one = measure(Fake(EYE), Fake(EYE), pictures[:1])
    assert one["cosine"].n == 1 and not one["cosine"].has_interval


def test_nothing_to_compare(pictures: list[Path]) -> None:
    assert measure(Fake(EYE), Fake(EYE), pictures, images=0) == {}
    assert measure(Fake(EYE), Fake(EYE), []) == {}
    assert measure(Fake(EYE), Fake(EYE, patch=16), pictures) == {}, "other grids"
    assert measure(Fake(EYE), Fake(torch.rand(3, 2)), pictures) == {}, "other widths"
