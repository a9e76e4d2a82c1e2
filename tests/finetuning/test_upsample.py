from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fit3d_cli.finetuning.upsample import upsample_tokens

PATCH = 12


def picture(columns: Tensor, rows: int) -> Tensor:
    """Grey value per pixel column."""
    return columns.expand(3, rows * PATCH, -1).contiguous()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_constant_maps_stay_constant(factor: int) -> None:
    image = torch.rand(3, 3 * PATCH, 5 * PATCH, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([0.5, -2.0]).expand(3, 5, 2)
    finer = upsample_tokens(tokens, image, factor)
    assert finer.shape == (3 * factor, 5 * factor, 2)
    torch.testing.assert_close(finer, tokens[:1, :1].expand_as(finer))


def test_factor_one_is_the_identity() -> None:
    tokens = torch.rand(2, 3, 4)
    assert torch.equal(upsample_tokens(tokens, torch.rand(3, 24, 36), 1), tokens)


@pytest.mark.parametrize("edge", [2 * PATCH, 2 * PATCH + PATCH // 2])
def test_edges_of_the_photo_are_kept(edge: int) -> None:
    """Between two patches, and through the middle of one whose token is half of each."""
    columns = torch.zeros(5 * PATCH)
    columns[edge:] = 1
    tokens = functional.avg_pool1d(columns[None, None], PATCH)[0, 0].expand(4, 5)[..., None]
    finer = upsample_tokens(tokens, picture(columns, 4), 2)[..., 0]
    truth = functional.avg_pool1d(columns[None, None], PATCH // 2)[0, 0].expand(8, 10)
    smooth = functional.interpolate(
        tokens[None, None, ..., 0], scale_factor=2, mode="bilinear", align_corners=False
    )[0, 0]
    assert (finer - truth).abs().max() < 1e-3
    assert (smooth - truth).abs().max() > 0.2
    if edge % PATCH:
        nearest = tokens[..., 0].repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert (nearest - truth).abs().max() > 0.4


def test_a_flat_photo_gives_the_gaussian_mean_of_the_window() -> None:
    tokens = torch.rand(5, 6, 2, generator=torch.Generator().manual_seed(1))
    finer = upsample_tokens(tokens, torch.full((3, 5 * PATCH, 6 * PATCH), 0.5), 2)
    for row, column in ((0, 0), (4, 7), (9, 11)):
        total, weight = torch.zeros(2), 0.0
        y, x = (row + 0.5) / 2 - 0.5, (column + 0.5) / 2 - 0.5
        for i in range(max(0, row // 2 - 2), min(5, row // 2 + 3)):
            for j in range(max(0, column // 2 - 2), min(6, column // 2 + 3)):
                w = torch.exp(torch.tensor(-((y - i) ** 2 + (x - j) ** 2) / (2 * 0.5**2)))
                total, weight = total + w * tokens[i, j], weight + float(w)
        torch.testing.assert_close(finer[row, column], total / weight)


def test_a_cell_that_looks_like_nothing_still_gets_a_token() -> None:
    image = torch.zeros(3, 3 * PATCH, 3 * PATCH)
    image[:, PATCH : PATCH + 3, PATCH : PATCH + 3] = 1e3  # far beyond float32's exp
    tokens = torch.rand(3, 3, 2)
    finer = upsample_tokens(tokens, image, 4)
    assert torch.isfinite(finer).all()
    torch.testing.assert_close(finer[4, 4], tokens[1, 1])


def test_pictures_that_do_not_divide_are_refused() -> None:
    tokens = torch.rand(2, 2, 1)
    for size, factor in ((28, 4), (24, 0), (30, 2)):
        with pytest.raises(ValueError, match="do not divide"):
            upsample_tokens(tokens, torch.rand(3, size, 28), factor)


def test_it_is_cheap() -> None:
    tokens, image = torch.rand(21, 28, 192), torch.rand(3, 336, 448)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        upsample_tokens(tokens, image, 2)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5  # CPU seconds; a token pass takes many times that
