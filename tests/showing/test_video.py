from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d_cli.errors import ImageError, SettingsError
from fit3d_cli.images import read_image
from fit3d_cli.progress import Progress
from fit3d_cli.showing import video as showing_video
from fit3d_cli.showing.palette import Look
from fit3d_cli.showing.sampling import Viewer
from fit3d_cli.showing.video import show_video
from fit3d_cli.video import read_video, save_video


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds: a disc that walks to the right."""
    y, x = np.mgrid[:64, :96]
    frames = []
    for step in range(20):
        frame = np.full((64, 96, 3), (30, 40, 190), np.uint8)
        frame[(x - 20 - 2.5 * step) ** 2 + (y - 32) ** 2 < 15**2] = (220, 40, 30)
        frames.append(frame)
    path = tmp_path / "walk.mp4"
    save_video(path, frames, 10)
    return path


def frames_of(path: Path) -> list[Any]:
    return list(read_video(path)[1])


def test_a_video_becomes_a_video_with_constant_colours(
    film: Path, viewer: Viewer, model: Any, tmp_path: Path
) -> None:
    events: list[Progress] = []
    shown = show_video(film, viewer, tmp_path / "out", Look(), sheet=4, on_event=events.append)
    assert shown.video == tmp_path / "out" / "walk.mp4"
    assert shown.sheet == tmp_path / "out" / "walk-sheet.png"
    frames = frames_of(shown.video)
    assert len(frames) == 20 and read_video(shown.video)[0].fps == 10
    assert frames[0].shape[1] > 2 * 96, "the video and what the model makes of it"
    # Ground far from the disc keeps its colour from the first frame to the last.
    corners = np.stack([frame[-45:-35, -30:-20].mean((0, 1)) for frame in frames[:10]])
    assert np.ptp(corners, axis=0).max() < 12
    assert max(model.calls) <= viewer.batch
    assert (events[-1].done, events[-1].total) == (20, 20)


def test_fewer_frames_per_second_and_a_gif(film: Path, pair: Viewer, tmp_path: Path) -> None:
    shown = show_video(film, pair, tmp_path / "a.gif", Look("kmeans", 2), fps=5, sheet=0)
    assert shown.video == tmp_path / "a.gif" and shown.sheet is None
    assert len(frames_of(shown.video)) == 10


def test_the_sample_is_bounded(
    film: Path, viewer: Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing_video, "MAX_FIT", 3)
    assert show_video(film, viewer, tmp_path, Look(), sheet=0).fitted == 3


def test_similarity_starts_in_the_first_frame(film: Path, viewer: Viewer, tmp_path: Path) -> None:
    shown = show_video(film, viewer, tmp_path / "s", Look("similarity"), point="20,32", sheet=2)
    assert shown.sheet and read_image(shown.sheet).any()
    with pytest.raises(SettingsError, match="outside a picture of 96x64"):
        show_video(film, viewer, tmp_path / "t", Look("similarity"), point="99,1")


def test_bad_videos_and_targets_are_refused_and_leave_nothing(
    film: Path, viewer: Viewer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 50)
    with pytest.raises(ImageError, match="cannot be read as a video") as error:
        show_video(broken, viewer, tmp_path / "out", Look())
    assert error.value.where == str(broken)
    with pytest.raises(SettingsError, match="becomes a video"):
        show_video(film, viewer, tmp_path / "x.png", Look())
    assert not any(tmp_path.glob("*.png")) and not any((tmp_path / "out").glob("*"))
