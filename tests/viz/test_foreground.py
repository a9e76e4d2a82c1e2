from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fit3d_cli import viz


def object_map(seed: int, sign: float = 1.0) -> tuple[Tensor, Tensor]:
    """A grid with an object in the middle, and its mask."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(12, 16, dtype=torch.bool)
    mask[3:9, 4:12] = True
    tokens = torch.randn(12, 16, 8, generator=draw) * 0.3
    tokens[..., 2] += sign * mask * 3
    return tokens, mask


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_lies_in_the_middle_is_found_whatever_its_sign(sign: float) -> None:
    maps = [object_map(seed, sign) for seed in range(3)]
    cut = viz.find_foreground([tokens for tokens, _ in maps])
    for tokens, mask in maps:
        assert float((cut(tokens) == mask).float().mean()) > 0.99
        assert torch.equal(cut(tokens), cut.score(tokens) > 0)


def test_an_object_that_fills_most_of_the_picture_is_still_the_foreground() -> None:
    tokens, _ = object_map(0)
    tokens[1:-1, 1:-1, 2] = 3.0
    found = viz.find_foreground([tokens])(tokens)
    assert bool(found[1:-1, 1:-1].all()) and float(found.float().mean()) < 0.8


def test_constant_features_do_not_fail() -> None:
    found = viz.find_foreground([torch.ones(4, 5, 3)])(torch.ones(4, 5, 3))
    assert found.shape == (4, 5)
