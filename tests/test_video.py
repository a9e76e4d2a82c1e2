"""Videos as attacks: playlists that open other files, titles without end, frames without end."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from fit3d_cli import video
from fit3d_cli.errors import ImageError
from fit3d_cli.video import read_video, save_video

FRAMES = [np.full((32, 48, 3), shade, np.uint8) for shade in (0, 90, 180)]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    save_video(tmp_path / "film.mp4", FRAMES, 5)
    return tmp_path / "film.mp4"


def test_a_playlist_opens_nothing(film: Path) -> None:
    assert len(list(read_video(film)[1])) == 3
    concat = "ffconcat version 1.0\nfile film.mp4\n"
    stream = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.mp4\n#EXT-X-ENDLIST\n"
    for text in (concat, stream):
        for name in ("list.mp4", "list.m3u8"):
            (film.parent / name).write_text(text)
            with pytest.raises(ImageError, match="cannot be read as a video"):
                read_video(film.parent / name)


def test_a_long_title_takes_no_time(film: Path) -> None:
    titled = film.with_name("titled.mkv")
    title = "Video: " + "1" * 60_000
    program = video._command(film, [])[0]
    subprocess.run(
        [program, "-v", "error", "-i", film, "-c", "copy", "-metadata", f"title={title}", titled],
        check=True,
    )
    began = time.process_time()
    facts, _ = read_video(titled)
    assert facts.fps == 5 and time.process_time() - began < 2


def test_a_frame_may_be_too_large(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="cannot be read as a video"):
        read_video(film)
