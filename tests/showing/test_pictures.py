from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d_cli.capture.photos import Photos
from fit3d_cli.errors import ImageError, SettingsError
from fit3d_cli.images import read_image
from fit3d_cli.progress import Progress
from fit3d_cli.showing import sampling
from fit3d_cli.showing.palette import Look
from fit3d_cli.showing.pictures import show_pictures
from fit3d_cli.showing.sampling import Viewer, sample_tokens


def test_a_folder_gets_a_picture_each_and_a_contact_sheet(
    photos: Photos, viewer: Viewer, tmp_path: Path
) -> None:
    same = Photos((photos.paths[0], photos.paths[0], photos.paths[1]), ("x", "x", "contact-sheet"))
    shown = show_pictures(same, viewer, tmp_path / "out", Look())
    names = [file.name for file in shown.files]
    assert names == ["x.png", "x-2.png", "contact-sheet-2.png"]
    first, second, third = (file.read_bytes() for file in shown.files)
    assert first == second != third
    assert shown.sheet == tmp_path / "out" / "contact-sheet.png" and shown.fitted == 3
    # Three tiles of a photo and its picture: more than two panels wide or two rows high.
    assert read_image(shown.sheet).size > 3 * 2 * 180 * 270 * 3


def test_two_models_stand_side_by_side(photos: Photos, viewer: Viewer, pair: Viewer,
                                       tmp_path: Path) -> None:  # fmt: skip
    one, two = (
        show_pictures(photos, who, tmp_path / str(number), Look())
        for number, who in enumerate((viewer, pair))
    )
    assert read_image(two.files[0]).shape[1] > read_image(one.files[0]).shape[1] + 90


@pytest.mark.parametrize(
    "look",
    [Look(), Look("kmeans", clusters=2), Look(foreground=True), Look("kmeans", 3, True, "photo")],
    ids=str,
)
def test_same_seed_same_bytes(photos: Photos, pair: Viewer, tmp_path: Path, look: Look) -> None:
    first, second = (show_pictures(photos, pair, tmp_path / name, look) for name in ("one", "two"))
    assert first.sheet and second.sheet
    assert first.sheet.read_bytes() == second.sheet.read_bytes()
    for a, b in zip(first.files, second.files, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_out_decides_what_is_written(photos: Photos, viewer: Viewer, tmp_path: Path) -> None:
    sheet = show_pictures(photos, viewer, tmp_path / "all.png", Look(), page=True)
    assert (sheet.files, sheet.sheet) == ((), tmp_path / "all.png")
    assert sheet.page == tmp_path / "all.html"
    alone = show_pictures(photos.pick([1]), viewer, tmp_path / "one.png", Look())
    assert (alone.files, alone.sheet) == ((tmp_path / "one.png",), None)
    page = show_pictures(photos, viewer, tmp_path / "page.html", Look())
    assert (page.files, page.sheet, page.page) == ((), None, tmp_path / "page.html")
    with pytest.raises(SettingsError, match="do not fit into one file"):
        show_pictures(photos, viewer, tmp_path / "no.png", Look(), sheet=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "all.html", "all.png", "one.png", "page.html", "photos",
    ]  # fmt: skip


def test_a_large_folder_is_fitted_on_a_sample_and_streamed(
    photos: Photos, viewer: Viewer, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Photos(photos.paths * 20, tuple(f"{i:02}" for i in range(60)))
    monkeypatch.setattr(sampling, "MAX_FIT", 4)
    kept_at_once: list[int] = []
    original = sampling.sample_tokens

    def spy(*arguments: Any) -> Any:
        kept = original(*arguments)
        kept_at_once.append(len(kept))
        return kept

    monkeypatch.setattr("fit3d_cli.showing.pictures.sample_tokens", spy)
    events: list[Progress] = []
    shown = show_pictures(many, viewer, tmp_path / "out", Look(), sheet=6, on_event=events.append)
    assert len(shown.files) == 60 and shown.fitted == 4 and kept_at_once == [4]
    assert all(file.is_file() for file in shown.files)
    assert max(model.calls) <= viewer.batch, "never more photos in memory than a batch"
    assert sum(model.calls) <= 60 + 1
    assert (events[-1].done, events[-1].total) == (60, 60)
    # The colours of the sample hold for all: copies of one photo look the same.
    assert shown.files[0].stat().st_size > 0
    panels = [read_image(file)[30:90, 110:190] for file in shown.files[::3]]
    assert all(np.array_equal(panels[0], panel) for panel in panels)


def test_the_sample_shrinks_with_the_tokens(
    photos: Photos, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = photos.paths * 10
    size = next(viewer.look(many[:1]))[0].nbytes
    monkeypatch.setattr(sampling, "FIT_BYTES", 5 * size)
    assert sorted(sample_tokens(many, viewer)) == [3, 9, 15, 21, 27]
    monkeypatch.setattr(sampling, "FIT_BYTES", 1)
    assert len(sample_tokens(many, viewer)) == 1


def test_similarity_marks_its_point_and_is_brightest_there(
    photos: Photos, viewer: Viewer, tmp_path: Path
) -> None:
    look = Look("similarity")
    shown = show_pictures(photos, viewer, tmp_path / "s", look, point="b.png:50,30")
    plain = show_pictures(photos, viewer, tmp_path / "p", Look())
    photo_width = 96
    left = [read_image(f)[:, : photo_width + 10] for f in (shown.files[1], plain.files[1])]
    assert not np.array_equal(*left), "a ring is drawn"
    heat = read_image(shown.files[1]).astype(int)
    top = _top_of_panels(heat)
    panel = heat[top : top + 64, -96 - 15 : -15]
    middle, corner = panel[28:36, 44:56].sum(-1).mean(), panel[:6, :6].sum(-1).mean()
    assert middle > 1.5 * corner


def _top_of_panels(picture: np.ndarray) -> int:  # type: ignore[type-arg]
    return next(y for y in range(20, picture.shape[0]) if (picture[y, -60] < 225).any())


def test_a_pointed_picture_is_on_the_sheet_even_if_the_spread_misses_it(
    photos: Photos, viewer: Viewer, tmp_path: Path
) -> None:
    shown = show_pictures(
        photos, viewer, tmp_path / "s.png", Look("similarity"), point="a:1,1", sheet=1
    )
    bare = show_pictures(photos, viewer, tmp_path / "b.png", Look(), sheet=1)
    assert shown.sheet and bare.sheet
    assert read_image(shown.sheet).size > 1.5 * read_image(bare.sheet).size


def test_a_damaged_photo_is_named(photos: Photos, viewer: Viewer, tmp_path: Path) -> None:
    photos.paths[1].write_bytes(photos.paths[1].read_bytes()[:60])
    with pytest.raises(ImageError) as error:
        show_pictures(photos, viewer, tmp_path / "out", Look())
    assert error.value.where == str(photos.paths[1])
