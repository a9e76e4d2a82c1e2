from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fit3d_cli.capture.photos import Photos
from fit3d_cli.errors import ImageError, SettingsError
from fit3d_cli.settings import VizSettings
from fit3d_cli.showing.sampling import Viewer
from fit3d_cli.showing.subject import find_subject, look_of, show_subject


def test_a_folder_its_pictures_and_videos_are_told_apart(photos: Photos, tmp_path: Path) -> None:
    folder = photos.paths[0].parent
    found = find_subject(folder)
    assert isinstance(found, Photos) and len(found.paths) == 3
    film = tmp_path / "a.MP4"
    film.touch()
    assert find_subject(film) == film
    with pytest.raises(ImageError, match="no picture in this folder") as error:
        find_subject(tmp_path)
    assert str(folder) in error.value.hint


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"method": "similarity"}, "--method similarity"),
        ({"point": "1,2"}, "--point"),
        ({"method": "similarity", "point": "1,2", "foreground": True}, "--foreground"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], where: str) -> None:
    with pytest.raises(SettingsError) as error:
        look_of(VizSettings(**options), 0)
    assert error.value.where == where and error.value.hint


def test_a_video_has_no_page(viewer: Viewer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no page"):
        show_subject(tmp_path / "a.mp4", viewer, VizSettings(), out=tmp_path, page=True)
