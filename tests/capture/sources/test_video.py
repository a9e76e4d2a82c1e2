"""A video becomes photos; the poses are faked here and found in ``test_photos``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageFilter

from fit3d_cli.capture.sources import video as module
from fit3d_cli.capture.sources.base import SourceOptions
from fit3d_cli.errors import CaptureError, ImageError
from fit3d_cli.images import image_header, read_image
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.video import save_video

COUNT = 40
SPOILT = {i for i in range(COUNT) if i % 4 == 2}


@pytest.fixture(scope="session")
def film(corner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten static frames, then an arc with every fourth frame blurred."""
    first = corner.render(0.2, 160)
    frames = [first] * 10
    for i in range(COUNT):
        picture = Image.fromarray(corner.render(0.2 + 0.02 * i, 160))
        blurred = picture.filter(ImageFilter.GaussianBlur(3))
        frames.append(np.asarray(blurred if i in SPOILT else picture))
    path = tmp_path_factory.mktemp("films") / "hall.mp4"
    save_video(path, frames, 25)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What structure from motion is asked to do."""
    told: dict[str, Any] = {}

    def keep(path: Path, files: list[Path], folder: Path, options: SourceOptions,
             on_event: object, **more: Any) -> None:  # fmt: skip
        told.update(files=files, options=options, **more)

    monkeypatch.setattr(module, "pose_photos", keep)
    monkeypatch.setattr(module, "require_pycolmap", lambda path: None)
    return told


def numbers(files: list[Path]) -> list[int]:
    return [int(file.stem.split("_")[1]) for file in files]


def test_sharp_frames_that_differ(film: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    heard: list[Progress] = []
    module.make(film, tmp_path, SourceOptions(), heard.append)
    picked = numbers(asked["files"])
    assert 5 <= len(picked) <= 35
    assert not {10 + i for i in SPOILT} & set(picked)
    assert sum(i < 10 for i in picked) == 1
    assert sorted((tmp_path / "images").iterdir()) == asked["files"]
    assert asked["ordered"] and asked["facts"] == {
        "video_frames": 50, "differing": len(picked)
    }  # fmt: skip
    assert (image_header(asked["files"][0]).width, image_header(asked["files"][0]).height) == (
        160, 120,
    )  # fmt: skip
    assert heard[-1].total == 50 and heard[-1].note == f"{len(picked)} kept"


def test_at_most_so_many(film: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    module.make(film, tmp_path, SourceOptions(frames=4), ignore)
    assert len(asked["files"]) == 4 == len(list((tmp_path / "images").iterdir()))
    assert not {10 + i for i in SPOILT} & set(numbers(asked["files"]))


def test_a_turned_video_comes_out_upright(
    film: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    turned = tmp_path / "turned.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90",
               "-i", str(film), "-c", "copy", str(turned)]  # fmt: skip
    subprocess.run(command, check=True, timeout=60)
    module.make(turned, tmp_path / "out", SourceOptions(), ignore)
    first = asked["files"][0]
    header = image_header(first)
    assert (header.width, header.height, header.orientation) == (120, 160, 1)
    module.make(film, tmp_path / "plain", SourceOptions(), ignore)
    plain = read_image(asked["files"][0]).astype(float)
    upright = read_image(first).astype(float)
    assert np.abs(np.rot90(plain) - upright).mean() < 6  # counter-clockwise, as the file says


def test_a_camera_on_a_tripod(corner, asked: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "still.mp4"
    save_video(path, [corner.render(0.5, 160)] * 20, 25)
    with pytest.raises(CaptureError, match=r"only 1 of 20 frames differ.*walking around"):
        module.make(path, tmp_path / "out", SourceOptions(), ignore)


@pytest.mark.parametrize("content", [b"", b"not a video at all", "half"])
def test_a_damaged_container(
    film: Path, asked: dict[str, Any], tmp_path: Path, content: bytes | str
) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(content if isinstance(content, bytes) else film.read_bytes()[:500])
    with pytest.raises(ImageError, match=r"bad\.mp4: cannot be read as a video") as caught:
        module.make(path, tmp_path / "out", SourceOptions(), ignore)
    assert "\n" not in str(caught.value)


def test_sniff_and_room(film: Path, tmp_path: Path) -> None:
    assert module.sniff(film) and not module.sniff(film.parent)
    assert module.describe(film) == "MP4 video"
    assert module._room(film) > 4 * film.stat().st_size
