from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.finetuning.denoise import denoised_tokens, spread_shifts

PATCH = 8


class Patches(nn.Module):
    """A timm-like module: the mean colour of a patch, and what a function of the place adds."""

    def __init__(self, artefact: Callable[[int, int], Tensor] | None = None) -> None:
        super().__init__()
        self.num_features = 3
        self.num_prefix_tokens = 0
        self.patch_embed = nn.Module()
        self.patch_embed.patch_size = (PATCH, PATCH)
        self.patch_embed.grid_size = (4, 4)
        self.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        self.norm = nn.LayerNorm(3)
        self.artefact = artefact
        self.seen: list[int] = []

    def forward_features(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        tokens = nn.functional.avg_pool2d(images, PATCH).permute(0, 2, 3, 1)
        if self.artefact is not None:
            tokens = tokens + self.artefact(*tokens.shape[1:3])
        return tokens.flatten(1, 2)


def toy(artefact: Callable[[int, int], Tensor] | None = None) -> Backbone:
    return Backbone("toy", "toy", Patches(artefact))


def ramp(height: int, width: int) -> Tensor:
    """Linear in x and y, so that bilinear samples of patch means are exact."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width,
                          indexing="ij")  # fmt: skip
    return torch.stack([x, y, 1 - (x + y) / 2])


def scattered(height: int, width: int) -> Tensor:
    return torch.randn(height, width, 3, generator=torch.Generator().manual_seed(5))


def test_what_moves_with_the_picture_is_kept_away_from_the_border() -> None:
    image = ramp(6 * PATCH, 9 * PATCH)
    plain = toy().tokens(image[None])[0]
    shifts = [(0, 0), (3, -5), (-11, 6), (13, 13)]
    averaged = denoised_tokens(toy(), image, shifts)
    assert averaged.shape == plain.shape and averaged.dtype == torch.float32
    torch.testing.assert_close(averaged[2:-2, 2:-2], plain[2:-2, 2:-2], rtol=0, atol=1e-5)
    # Reflected filling would be off by whole patches of the ramp.
    assert (averaged - plain).abs().max() < 0.5 / 6
    torch.testing.assert_close(denoised_tokens(toy(), image, [(0, 0)]), plain, rtol=0, atol=1e-6)


def test_constant_pictures_keep_their_tokens_to_the_border() -> None:
    image = torch.full((3, 4 * PATCH, 4 * PATCH), 0.25)
    averaged = denoised_tokens(toy(), image, 7)
    torch.testing.assert_close(averaged, torch.full_like(averaged, 0.25), rtol=0, atol=1e-6)


def test_a_filled_up_border_counts_nothing() -> None:
    """A backbone that gives nonsense where the filling is changes nothing."""
    image = ramp(6 * PATCH, 6 * PATCH)

    def shout(height: int, width: int) -> Tensor:
        added = torch.zeros(height, width, 3)
        added[:, :2] = 1e3  # the copy is moved right by 11 pixels: these see its filling
        return added

    class OnlyCopies(Patches):
        def forward_features(self, images: Tensor) -> Tensor:
            tokens = super().forward_features(images).unflatten(1, (6, 6))
            moved = (images[:, :, 0, 0] != image[:, 0, 0]).any(1)
            mirrored = images[:, 0, 0, 0] > images[:, 0, 0, -1]
            tokens = tokens + (moved & ~mirrored)[:, None, None, None] * shout(6, 6)
            return tokens.flatten(1, 2)

    loud = Backbone("loud", "loud", OnlyCopies())
    shifts = [(0, 0), (11, 0)]
    expected = denoised_tokens(toy(), image, shifts)
    torch.testing.assert_close(denoised_tokens(loud, image, shifts), expected)


@pytest.mark.parametrize("count", [8, 16])
def test_artefacts_of_the_place_wear_down(count: int) -> None:
    image = ramp(12 * PATCH, 16 * PATCH)
    clean = toy().tokens(image[None])[0]
    noisy = toy(scattered)
    before = (noisy.tokens(image[None])[0] - clean)[3:-3, 3:-3].square().mean()
    after = (denoised_tokens(noisy, image, count) - clean)[3:-3, 3:-3].square().mean()
    # Two per copy, were the samples independent and not blurred.
    assert after < 1.5 * before / (2 * count)


def test_mirror_images_take_part() -> None:
    def left(height: int, width: int) -> Tensor:
        return torch.linspace(1, -1, width).expand(height, width)[..., None].repeat(1, 1, 3)

    image = ramp(4 * PATCH, 4 * PATCH)
    torch.testing.assert_close(
        denoised_tokens(toy(left), image, [(0, 0)]), toy().tokens(image[None])[0]
    )


def test_batches_change_nothing_and_runs_repeat() -> None:
    image = torch.rand(3, 4 * PATCH, 6 * PATCH, generator=torch.Generator().manual_seed(0))
    one, many = toy(scattered), toy(scattered)
    first = denoised_tokens(one, image, 5, batch=1)
    torch.testing.assert_close(denoised_tokens(many, image, 5, batch=8), first)
    assert torch.equal(denoised_tokens(toy(scattered), image, 5, batch=1), first)
    assert one.model.seen == [1] * 10 and many.model.seen == [5, 5]
    assert not first.requires_grad


def test_shifts_are_spread_and_off_the_grid() -> None:
    size = (28 * 16, 21 * 16)
    shifts = spread_shifts(64, size, 16)
    assert shifts[0] == (0, 0) and len(set(shifts)) == 64
    assert all(x % 16 and y % 16 for x, y in shifts[1:])
    assert all(abs(x) <= size[0] // 4 + 1 and abs(y) <= size[1] // 4 + 1 for x, y in shifts)
    corners = {(x > 0, y > 0) for x, y in shifts[1:9]}
    assert len(corners) == 4
    assert spread_shifts(8, size, 16) == shifts[:8]


@pytest.mark.parametrize(
    ("shifts", "what"), [([(1, 1)], r"lack \(0, 0\)"), ([(0, 0), (32, 0)], "leaves nothing of")]
)
def test_impossible_shifts_are_refused(shifts: list[tuple[int, int]], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        denoised_tokens(toy(), torch.zeros(3, 32, 32), shifts)
