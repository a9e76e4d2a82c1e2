from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.backbones.cache import (
    TokenCache,
    TokenItem,
    Tokens,
    image_digest,
    tokens_for,
)
from fit3d_cli.errors import WeightsError


@dataclass
class Mean8:
    """Tokens are the mean colours of 8x8 patches."""

    identity: str = "a"
    name: str = "mean8"
    batches: list[int] = field(default_factory=list)

    def input_size(self, width: int, height: int, target_width: int) -> tuple[int, int]:
        return target_width, target_width * height // width

    def tokens_and_cls(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(images))
        patches = torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1)
        return patches, patches.mean((1, 2))


def item(number: int, size: tuple[int, int] = (32, 16)) -> TokenItem:
    generator = torch.Generator().manual_seed(number)
    image = torch.rand(size[1], size[0], 3, generator=generator)
    return TokenItem(f"picture {number}", size, lambda: image)


def forbidden() -> Tensor:
    raise AssertionError("a cached picture was read again")


def test_second_run_reads_no_picture_and_gives_the_same(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    model = Mean8()
    items = [item(n) for n in range(5)]
    steps: list[tuple[int, int]] = []
    first = tokens_for(
        model, items, cache=cache, batch=2, on_step=lambda d, t: steps.append((d, t))
    )
    assert model.batches == [2, 2, 1]
    assert steps == [(2, 5), (4, 5), (5, 5)]
    assert all(t.dtype == torch.float16 and t.shape == (2, 4, 3) for t in first)
    cached = [TokenItem(i.digest, i.size, forbidden) for i in items]
    second = tokens_for(model, cached, cache=cache, batch=2)
    assert model.batches == [2, 2, 1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_sizes_may_be_mixed_and_order_is_kept(tmp_path: Path) -> None:
    model = Mean8()
    items = [item(0), item(1, (8, 24)), item(2), item(3, (8, 24))]
    together = tokens_for(model, items, cache=None, batch=8)
    assert [tuple(t.shape) for t in together] == [(2, 4, 3), (3, 1, 3)] * 2
    for tokens, one in zip(together, items, strict=True):
        assert torch.equal(tokens, tokens_for(Mean8(), [one], cache=None)[0])
    assert model.batches == [2, 2]


def test_anything_that_changes_tokens_changes_the_key(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    keys = {
        cache.key(Mean8(), "x", (32, 16)),
        cache.key(Mean8(), "y", (32, 16)),
        cache.key(Mean8(), "x", (16, 32)),
        cache.key(Mean8(identity="b"), "x", (32, 16)),
    }
    assert len(keys) == 4
    picture = tmp_path / "p.png"
    picture.write_bytes(b"1")
    digests = {image_digest(picture), image_digest(picture, "opencv 0.1")}
    picture.write_bytes(b"2")
    assert len(digests | {image_digest(picture)}) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_damaged_entries_are_computed_again(tmp_path: Path, damage: str) -> None:
    cache = TokenCache(tmp_path)
    model = Mean8()
    expected = tokens_for(model, [item(0)], cache=cache)[0]
    tokens_for(model, [item(1)], cache=cache)
    path = cache.path(cache.key(model, "picture 0", (32, 16)))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-3]
    elif damage == "flip":
        content[-1] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(cache.path(cache.key(model, "picture 1", (32, 16))).read_bytes())
    path.write_bytes(content)
    assert torch.equal(tokens_for(model, [item(0)], cache=cache)[0], expected)
    mended = cache.read(cache.key(model, "picture 0", (32, 16)))
    assert mended is not None and torch.equal(mended.patches, expected)


def test_get_computes_once(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    made = Tokens(torch.ones(1, 2, 3).half(), torch.zeros(3).half())
    assert cache.get(Mean8(), "x", (16, 8), lambda: made) is made
    again = cache.get(Mean8(), "x", (16, 8), lambda: pytest.fail("computed twice"))
    assert torch.equal(again.patches, made.patches)


def test_tokens_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    huge = TokenItem("huge", (8, 8), lambda: torch.full((8, 8, 3), 1e6))
    with pytest.raises(WeightsError, match="not finite"):
        tokens_for(Mean8(), [huge], cache=cache)
    assert not list(tmp_path.rglob("*.safetensors"))
