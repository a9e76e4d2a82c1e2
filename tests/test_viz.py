"""Colours: deterministic, shared between maps, right on cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.viz import Panel
from fit3d_cli.viz.colours import UNKNOWN, oklch_to_rgb


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- PCA


def test_pca_is_deterministic_and_stays_in_range() -> None:
    rows = random(5, 7, 12)
    first, second = viz.fit_pca(rows), viz.fit_pca(rows)
    assert torch.equal(first.components, second.components)
    colours = first(rows)
    assert colours.shape == (5, 7, 3)
    assert float(colours.min()) == 0 and float(colours.max()) == 1


def test_pca_finds_the_directions_of_largest_variance() -> None:
    directions = torch.linalg.qr(random(10, 10, seed=1)).Q[:, :3]
    rows = random(4000, 3, seed=2) * torch.tensor([5.0, 3.0, 1.0])
    basis = viz.fit_pca(rows @ directions.T + 0.001 * random(4000, 10, seed=3) + 7)
    assert torch.allclose((basis.components.T @ directions).abs(), torch.eye(3), atol=0.03)
    assert torch.allclose(basis.mean @ directions, 7 * directions.sum(0), atol=0.3)


def test_pca_signs_do_not_depend_on_the_order_or_half_of_the_rows() -> None:
    mixing = random(6, 6, seed=4) * torch.tensor([[4.0], [3.0], [2.0], [0.3], [0.2], [0.1]])
    rows = random(600, 6) @ mixing
    whole, reverse, half = (viz.fit_pca(r).components for r in (rows, rows.flip(0), rows[::2]))
    assert torch.allclose(whole, reverse, atol=1e-5)
    assert bool(((whole * half).sum(0) > 0.8).all())


def test_one_basis_gives_equal_tokens_equal_colours_in_both_models() -> None:
    base, tuned = random(6, 8, 16), random(6, 8, 16, seed=1)
    tuned[2, 3] = base[5, 1]
    basis = viz.fit_pca([base, tuned])
    assert torch.equal(basis(base)[5, 1], basis(tuned)[2, 3])
    assert not torch.allclose(basis(base), basis(tuned))


def test_an_offset_between_models_takes_no_component_but_is_seen() -> None:
    spread = torch.zeros(500, 8)
    spread[:, :3] = random(500, 3) * torch.tensor([3.0, 2.0, 1.0])
    offset = torch.zeros(8)
    offset[7] = 100.0
    basis = viz.fit_pca([spread, spread + offset])
    assert torch.allclose(basis.components[7], torch.zeros(3), atol=1e-6)
    offset[7], offset[0] = 0.0, 4.0
    shifted = viz.fit_pca([spread, spread + offset])
    moved = shifted(spread + offset) - shifted(spread)
    assert abs(float(moved[:, 0].mean())) > 0.2


def test_pca_is_not_taken_over_by_one_giant_token() -> None:
    rows = random(400, 6) * torch.tensor([3.0, 2.0, 1.0, 0.1, 0.1, 0.1])
    rows[7] = torch.tensor([0, 0, 0, 0, 0, 1e4])
    components = viz.fit_pca(rows).components
    assert float(components[:3].norm()) > 1.6  # sqrt(3) if all three are clean


def test_pca_of_many_rows_uses_a_seeded_sample() -> None:
    rows = random(70_000, 4) * torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert torch.equal(viz.fit_pca(rows, seed=3).low, viz.fit_pca(rows, seed=3).low)
    assert not torch.equal(viz.fit_pca(rows, seed=3).low, viz.fit_pca(rows, seed=4).low)


@pytest.mark.parametrize("rows", [torch.zeros(0, 4), torch.full((3, 4), torch.nan)])
def test_pca_of_nothing_is_refused(rows: Tensor) -> None:
    with pytest.raises(ValueError, match="finite"):
        viz.fit_pca(rows)


def test_pca_of_constant_or_narrow_features_is_finite() -> None:
    for rows in (torch.ones(9, 5), random(9, 2)):
        colours = viz.fit_pca(rows)(rows)
        assert colours.shape == (9, 3) and bool(torch.isfinite(colours).all())


# --- k-means


def blobs() -> tuple[Tensor, Tensor]:
    labels = torch.arange(300) % 3
    centres = torch.tensor([[10.0, 0, 0], [0, 10, 0], [0, 0, 10]])
    return centres[labels] + 0.3 * random(300, 3), labels


@pytest.mark.parametrize("cosine", [True, False])
def test_kmeans_separates_separable_clusters(cosine: bool) -> None:
    rows, labels = blobs()
    for seed in range(5):
        found = viz.kmeans(rows, 3, seed=seed, cosine=cosine).assign(rows)
        pairs = {(int(a), int(b)) for a, b in zip(labels, found, strict=True)}
        assert len(pairs) == 3, "every blob is exactly one cluster"


def test_kmeans_is_deterministic_and_largest_first() -> None:
    rows = torch.cat([blobs()[0], torch.tensor([[0.0, 0, 10]]).expand(50, 3)])
    first, second = viz.kmeans(rows, 3, seed=2), viz.kmeans(rows, 3, seed=2)
    assert torch.equal(first.centroids, second.centroids)
    sizes = torch.bincount(first.assign(rows), minlength=3).tolist()
    assert sizes == [150, 100, 100]


def test_kmeans_beats_or_equals_its_seeds() -> None:
    rows = random(400, 5)

    def cost(iterations: int) -> float:
        found = viz.kmeans(rows, 6, iterations=iterations, cosine=False)
        return float((rows - found.centroids[found.assign(rows)]).square().sum())

    assert cost(30) < cost(1) < cost(0)


def test_kmeans_colours_are_shared_and_shaped() -> None:
    rows, _ = blobs()
    found = viz.kmeans(rows, 3)
    grid = rows[:12].reshape(3, 4, 3)
    assert torch.equal(found(grid)[0, 0], found(rows)[0])
    assert found(grid).shape == (3, 4, 3)


def test_kmeans_with_fewer_different_rows_than_clusters() -> None:
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 1)
    assert len(viz.kmeans(rows, 5).centroids) == 2
    with pytest.raises(ValueError, match="finite"):
        viz.kmeans(torch.full((2, 2), torch.nan), 2)


# --- colours


def test_oklch_matches_known_colours() -> None:
    # White, mid grey and sRGB red in OKLCh (Ottosson's reference values).
    lch = torch.tensor([[1.0, 0.0, 0.0], [0.5999, 0.0, 0.0], [0.62796, 0.25768, 29.234]])
    rgb = oklch_to_rgb(*lch.T)
    expected = torch.tensor([[1.0, 1, 1], [0.5029, 0.5029, 0.5029], [1.0, 0, 0]])
    assert torch.allclose(rgb, expected, atol=4e-3)


@pytest.mark.parametrize("count", [2, 8, 20, 64])
def test_cluster_colours_differ(count: int) -> None:
    colours = viz.distinct_colours(count)
    assert colours.shape == (count, 3)
    apart = torch.pdist(colours)
    assert float(apart.min()) > (0.15 if count <= 8 else 0.01)
    assert torch.allclose(viz.distinct_colours(64)[:count], colours, atol=1e-5)


def luminance(rgb: Tensor) -> Tensor:
    return rgb @ torch.tensor([0.2126, 0.7152, 0.0722])


def test_near_is_brighter_and_unknown_is_dark_grey() -> None:
    depth = torch.linspace(1, 9, 64)[None].repeat(2, 1)
    depth[1, 5], depth[1, 6], depth[1, 7] = 0, torch.nan, torch.inf
    mask = torch.ones(2, 64, dtype=torch.bool)
    mask[1, 8] = False
    rgb = viz.depth_to_rgb(depth, mask=mask)
    bright = luminance(rgb[0])
    assert bool((bright[1:] <= bright[:-1] + 1e-6).all()) and bright[0] > bright[-1] + 0.5
    for column in (5, 6, 7, 8):
        assert torch.allclose(rgb[1, column], torch.tensor(UNKNOWN))
    assert torch.isfinite(rgb).all()


def test_depth_colours_do_not_depend_on_the_unit() -> None:
    depth = random(6, 6).abs() + 0.5
    assert torch.allclose(viz.depth_to_rgb(depth), viz.depth_to_rgb(1000 * depth), atol=1e-5)
    both = [viz.depth_to_rgb(d, near=1, far=5) for d in (depth, depth.flip(0))]
    assert torch.equal(both[0], both[1].flip(0)), "a given range is shared"
    assert torch.allclose(viz.depth_to_rgb(torch.zeros(2, 2)), torch.tensor(UNKNOWN))


def test_larger_errors_are_brighter() -> None:
    error = torch.linspace(-4, 4, 41)[None]
    bright = luminance(viz.error_to_rgb(error, high=4)[0])
    assert int(bright.argmin()) == 20 and torch.allclose(bright, bright.flip(0))
    assert torch.allclose(viz.error_to_rgb(torch.zeros(2, 2)).std(0), torch.zeros(2, 3))
    unknown = viz.error_to_rgb(torch.full((1, 1), torch.nan))
    assert torch.allclose(unknown[0, 0], torch.tensor(UNKNOWN))


# --- panels


def test_nearest_keeps_cells_and_bicubic_keeps_the_range() -> None:
    grid = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0))
    cells = viz.upsample(grid, 30, 40, "nearest")
    assert torch.equal(cells, grid.repeat_interleave(10, 0).repeat_interleave(10, 1))
    smooth = viz.upsample(grid, 30, 40)
    assert smooth.shape == (30, 40, 3)
    assert float(smooth.min()) >= 0 and float(smooth.max()) <= 1


def test_labels_outside_the_table_are_grey() -> None:
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    rgb = viz.label_map(torch.tensor([[0, 1], [255, -1]]), colours)
    assert torch.equal(rgb[0], colours)
    assert torch.allclose(rgb[1], torch.full((2, 3), 0.16))


def test_to_uint8_rounds_and_clips() -> None:
    rgb = torch.tensor([[[-1.0, 0.5, 2.0]]])
    assert viz.to_uint8(rgb).tolist() == [[[0, 128, 255]]]


def solid(height: int, width: int, value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_side_by_side_shows_every_picture_unchanged() -> None:
    panels = [Panel("left", solid(40, 60, 10)), Panel("right", solid(40, 30, 200))]
    sheet = viz.side_by_side(panels, title="a title")
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert int((sheet == 10).all(-1).sum()) == 40 * 60
    assert int((sheet == 200).all(-1).sum()) >= 40 * 30
    columns = [np.flatnonzero((sheet == value).all(-1).any(0)) for value in (10, 200)]
    assert columns[0].max() + 4 < columns[1].min(), "a gap lies between"
    assert np.array_equal(sheet, viz.side_by_side(panels, title="a title"))


def test_pictures_of_different_size_get_one_height() -> None:
    sheet = viz.side_by_side([Panel("", solid(20, 20, 0)), Panel("", solid(80, 40, 0))], height=50)
    dark = (sheet == 0).all(-1)
    assert int(dark.any(1).sum()) == 50 and int(dark.any(0).sum()) == 50 + 25


def test_any_caption_is_drawn() -> None:
    wild = "\n\x00\u202e漢字 🙂 " + "long " * 60
    sheet = viz.contact_sheet(
        [[Panel(wild, solid(40, 40, 0))], [Panel("x", solid(40, 40, 0))] * 3], titles=[wild, ""]
    )
    assert sheet.shape[1] < 250, "a long caption does not widen the sheet"


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        viz.contact_sheet([])
    with pytest.raises(ValueError, match="titles"):
        viz.contact_sheet([[Panel("", solid(4, 4, 0))]], titles=[])
