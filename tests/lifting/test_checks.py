"""What lift refuses before it computes anything."""

from pathlib import Path

import pytest
import torch

from fit3d_cli.capture.base import Capture, View
from fit3d_cli.errors import CaptureError
from fit3d_cli.lifting.checks import check_shapes


def capture(*sizes: tuple[int, int]) -> Capture:
    views = tuple(
        View(f"{i}.png", Path(f"{i}.png"), torch.eye(4).double(), torch.eye(3).double(), *size)
        for i, size in enumerate(sizes)
    )
    return Capture("mixed", Path("mixed"), "test", views)


def test_one_shape_in_any_size_passes() -> None:
    check_shapes(capture((640, 480), (320, 240), (640, 470)))


def test_portrait_beside_landscape_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"1\.png is 480x640") as caught:
        check_shapes(capture((640, 480), (480, 640)))
    assert "captures of their own" in caught.value.hint
