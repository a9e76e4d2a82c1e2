from __future__ import annotations

import pytest
import torch

from fit3d_cli import viz


def test_photo_puts_the_edge_where_the_photo_has_it() -> None:
    # The photo changes at column 27, in the middle of a cell of 8 pixels.
    photo = torch.zeros(32, 64, 3)
    photo[:, 27:] = 1.0
    values = torch.zeros(4, 8, 1)
    values[:, 4:] = 1.0
    values[:, 3] = 0.625  # the share of white in that cell's patch
    shown = viz.enlarge_values(values, photo, "photo")[..., 0]
    assert float((shown[:, 28] - shown[:, 26]).min()) > 0.4
    smooth = viz.enlarge_values(values, photo, "smooth")[..., 0]
    assert float((smooth[:, 28] - smooth[:, 26]).max()) < 0.2
    assert float(shown.min()) >= 0 and float(shown.max()) <= 1


def test_without_edges_photo_only_smooths() -> None:
    values = torch.rand(5, 6, 2, generator=torch.Generator().manual_seed(0))
    shown = viz.enlarge_values(values, torch.full((40, 48, 3), 0.3), "photo")
    centres = shown[4::8, 4::8]
    assert float((centres - values).abs().mean()) < 0.25
    flat = viz.enlarge_values(torch.full((5, 6, 2), 0.7), torch.rand(40, 48, 3), "photo")
    assert torch.allclose(flat, torch.full_like(flat, 0.7))


def test_cells_stay_cells() -> None:
    values = torch.rand(2, 3, 1, generator=torch.Generator().manual_seed(1))
    shown = viz.enlarge_values(values, torch.zeros(8, 12, 3), "cells")
    assert torch.equal(shown[::4, ::4], values)


@pytest.mark.parametrize("mode", ["smooth", "photo", "cells"])
def test_labels_keep_their_places(mode: str) -> None:
    labels = torch.tensor([[0, 0, 2], [0, 1, 2]])
    shown = viz.enlarge_labels(labels, 4, torch.full((16, 24, 3), 0.5), mode)  # type: ignore[arg-type]
    assert shown.dtype == torch.int64
    assert torch.equal(shown[[4, 12]][:, [3, 20]], labels[:, [0, 2]])
