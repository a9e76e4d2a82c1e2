from __future__ import annotations

import torch
from torch import Tensor

from fit3d_cli.showing.palette import Look, fit_palette


def tokens(seed: int, channels: int = 5, shift: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    grid = torch.randn(6, 8, channels, generator=draw) * 0.2
    grid[2:4, 3:6, 0] += 4
    return grid + shift


def picture(maps: list[Tensor], look: Look, **options: object) -> list[torch.Tensor]:
    labels = [f"m{i}" for i in range(len(maps))]
    palette = fit_palette(labels, [[m] for m in maps], look, **options)  # type: ignore[arg-type]
    panels = palette.panels(maps, torch.full((48, 64, 3), 0.5))
    return [torch.from_numpy(panel.picture.copy()).float() for panel in panels]


def test_the_same_tokens_get_the_same_colours_in_both_models() -> None:
    for look in (Look(), Look("kmeans", 3), Look(foreground=True)):
        first, second = picture([tokens(0), tokens(0)], look)
        assert torch.equal(first, second)


def test_models_of_different_width_get_their_own_colours() -> None:
    first, second = picture([tokens(0), tokens(0, channels=7)], Look())
    assert first.shape == second.shape == (48, 64, 3)


def test_the_background_is_dark_grey_and_the_mask_is_the_bases() -> None:
    shifted = tokens(1)
    shifted[..., 0] = 0  # nothing stands out in the second model
    first, second = picture([tokens(0), shifted], Look(foreground=True))
    for shown in (first, second):
        corner = shown[:8, :8].reshape(-1, 3)
        assert (corner - torch.tensor([41.0, 41.0, 43.0])).abs().max() <= 1
        assert shown[20:28, 30:42].std() > 1


def test_similarity_has_one_range_for_both_models() -> None:
    a, b = tokens(0), tokens(2)
    palette = fit_palette(["x", "y"], [[a], [b]], Look("similarity"), [a[3, 4], b[3, 4]])
    captions = [panel.caption for panel in palette.panels([a, b], torch.zeros(48, 64, 3))]
    assert captions[0].removeprefix("x") == captions[1].removeprefix("y")
    assert "cosine" in captions[0]


def test_one_model_is_not_named_under_every_picture() -> None:
    palette = fit_palette(["a-long-name"], [[tokens(0)]], Look())
    assert palette.panels([tokens(0)], torch.zeros(48, 64, 3))[0].caption == "PCA"
