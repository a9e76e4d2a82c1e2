from __future__ import annotations

import numpy as np
import pytest
import torch

from fit3d_cli.comparing.scenes import RenderedView, scene_sheet


def view(name: str, features: torch.Tensor, alpha: float = 1.0) -> RenderedView:
    shape = features.shape[:2]
    depth = torch.linspace(1, 2, shape[0] * shape[1]).reshape(shape)
    alphas = torch.full(shape, alpha)
    return RenderedView(
        name, torch.full((*shape, 3), 0.25), depth, alphas, features * alpha,
        torch.full((*shape, 3), 0.75),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["pca", "kmeans"])
def test_views_share_their_colours(method: str) -> None:
    features = torch.randn(24, 32, 5, generator=torch.Generator().manual_seed(0))
    pair = [view("same", features), view("same", features)]
    sheet = scene_sheet(pair, method=method, clusters=3)  # type: ignore[arg-type]
    photo_rows = np.flatnonzero((sheet == 191).all(-1).any(1))
    breaks = np.flatnonzero(np.diff(photo_rows) > 1)
    assert len(breaks) == 1, "two rows of pictures"
    first, second = photo_rows[0], photo_rows[breaks[0] + 1]
    assert np.array_equal(sheet[first : first + 24], sheet[second : second + 24])


def test_uncovered_places_are_black_and_an_empty_scene_is_no_error() -> None:
    features = torch.randn(24, 32, 5, generator=torch.Generator().manual_seed(0))
    for alpha in (0.0, 0.3):
        assert scene_sheet([view("faint", features, alpha)]).shape[2] == 3
    empty = scene_sheet([view("x", features, 0.0)])
    assert int((empty == 0).all(-1).sum()) >= 24 * 32
