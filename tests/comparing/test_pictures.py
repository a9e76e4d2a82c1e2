from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.comparing.look import file_names, viz_images
from fit3d_cli.comparing.pictures import compare_pictures, tokens_of
from fit3d_cli.errors import ImageError
from fit3d_cli.images import read_image, save_png
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


@pytest.mark.parametrize("method", ["pca", "kmeans"])
def test_viz_of_a_folder_shares_its_colours(
    tmp_path: Path, photos: list[Path], fake: Callable[..., Any], method: str
) -> None:
    same = [photos[0], tmp_path / "copy.png", photos[2]]
    same[1].write_bytes(photos[0].read_bytes())
    options: dict[str, Any] = {"width": 48, "batch": 2, "method": method, "names": ["x", "x", "y"]}
    files = viz_images(same, [("m", fake())], tmp_path / "viz", **options)
    assert [f.name for f in files] == ["x.png", "x-2.png", "y.png"]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    one = viz_images(same[:1], [("m", fake())], tmp_path / "viz", **{**options, "names": ["x"]})
    assert len(one) == 1
    both = viz_images(same[:1], [("base", fake()), ("tuned", fake())], tmp_path / "two.png",
                      width=48, batch=2, method=method)  # type: ignore[arg-type]  # fmt: skip
    assert both == [tmp_path / "two.png"]
    assert read_image(both[0]).shape[1] > read_image(files[0]).shape[1]


def test_viz_of_many_photos_streams_them(
    tmp_path: Path, photos: list[Path], fake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fit3d_cli.comparing.look.MAX_FIT", 2)
    events: list[Progress] = []
    model = fake()
    files = viz_images(photos, [("m", model)], tmp_path / "viz", width=48, batch=1,
                       on_event=events.append)  # fmt: skip
    assert (events[-1].done, events[-1].total) == (3, 3)
    assert model.calls == 3, "no photo goes through the model twice"
    names = [path.name for path in photos]
    ends = viz_images(photos[::2], [("m", fake())], tmp_path / "ends", width=48, batch=1,
                      names=names[::2])  # fmt: skip
    assert [f.read_bytes() for f in files[::2]] == [f.read_bytes() for f in ends]
    middle = read_image(files[1])
    assert not np.array_equal(middle, read_image(files[0]))


def test_file_names_are_plain_and_unique() -> None:
    wild = ["a/b.png", "a-b.jpg", "A/B.png", "../../etc/passwd", "<script>.png", "...", "漢字.png"]
    assert file_names(wild) == [
        "a-b.png", "a-b-2.png", "A-B-3.png", "etc-passwd.png", "script.png", "picture.png",
        "picture-2.png",
    ]  # fmt: skip
