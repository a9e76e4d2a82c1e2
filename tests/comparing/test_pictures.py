from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.backbones.looking import tokens_of
from fit3d_cli.comparing.pictures import compare_pictures
from fit3d_cli.errors import ImageError
from fit3d_cli.images import save_png
from fit3d_cli.progress import Progress


def look(photos: list[Path], base: Any, tuned: Any, **options: Any) -> Any:
    defaults: dict[str, Any] = {"width": 48, "batch": 2, "clusters": 3}
    return compare_pictures(photos, base, tuned, **{**defaults, **options})


def test_the_same_model_twice_looks_the_same(photos: list[Path], fake: Callable[..., Any]) -> None:
    pictures = look(photos, fake(), fake())
    assert [p.name for p in pictures] == [p.name for p in photos]
    for picture in pictures:
        assert torch.equal(picture.base.pca, picture.tuned.pca)
        assert torch.equal(picture.base.clusters, picture.tuned.clusters)
        assert picture.photo.shape == (32, 48, 3) and picture.base.pca.shape == (4, 6, 3)
        assert picture.drift is not None
        assert picture.drift.cosine == pytest.approx(1)
        assert picture.drift.norm_ratio == pytest.approx(1)


def test_models_of_different_width_get_their_own_colours(
    photos: list[Path], fake: Callable[..., Any]
) -> None:
    picture = look(photos, fake(), fake(channels=9, patch_size=16))[0]
    assert picture.drift is None
    assert picture.tuned.pca.shape == (2, 3, 3)


def test_colours_are_fitted_per_group(photos: list[Path], fake: Callable[..., Any]) -> None:
    alone = look(photos[:1], fake(), fake(gain=2.0))
    grouped = look(photos, fake(), fake(gain=2.0), groups=["a", "b", "b"])
    together = look(photos, fake(), fake(gain=2.0))
    assert torch.equal(grouped[0].tuned.pca, alone[0].tuned.pca)
    assert not torch.allclose(together[0].tuned.pca, alone[0].tuned.pca)


def test_batches_do_not_change_the_tokens(photos: list[Path], fake: Callable[..., Any]) -> None:
    model = fake()
    one = list(tokens_of(photos, model, width=48, batch=1))
    assert model.calls == 3
    many = list(tokens_of(photos, model, width=48, batch=8))
    assert model.calls == 4
    assert all(torch.allclose(a, b) for a, b in zip(one, many, strict=True))


def test_photos_of_different_size_share_no_batch(
    tmp_path: Path, photos: list[Path], fake: Callable[..., Any]
) -> None:
    tall = tmp_path / "tall.png"
    save_png(tall, np.zeros((96, 48, 3), dtype=np.uint8))
    shapes = [t.shape[:2] for t in tokens_of([photos[0], tall], fake(), width=48, batch=8)]
    assert shapes == [(4, 6), (12, 6)]


def test_pictures_are_deterministic(photos: list[Path], fake: Callable[..., Any]) -> None:
    first, second = (look(photos, fake(), fake(gain=2.0), seed=4) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.sheet(), b.sheet())


def test_progress_reaches_its_end(photos: list[Path], fake: Callable[..., Any]) -> None:
    events: list[Progress] = []
    look(photos, fake(), fake(), on_event=events.append)
    assert (events[-1].done, events[-1].total) == (6, 6)


def test_a_damaged_photo_is_named(photos: list[Path], fake: Callable[..., Any]) -> None:
    photos[1].write_bytes(photos[1].read_bytes()[:60])
    with pytest.raises(ImageError) as error:
        look(photos, fake(), fake())
    assert error.value.where == str(photos[1])
