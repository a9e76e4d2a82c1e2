"""Poses of photos: a real reconstruction of a rendered corner, and every way to fail."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources import photos as module
from fit3d_cli.capture.sources import sfm
from fit3d_cli.capture.sources.base import SourceOptions
from fit3d_cli.capture.sources.photos import Photo, make, photo_files
from fit3d_cli.capture.sources.prepare import prepare_source
from fit3d_cli.capture.sources.sfm import Poses, choose_pairs
from fit3d_cli.errors import CaptureError, EnvironmentFault
from fit3d_cli.images import read_image, save_png
from fit3d_cli.progress import Progress, ignore

ANGLES = [0.3 + 0.07 * i for i in range(9)]
QUICK = SourceOptions(max_side=240)
HERE = importlib.util.find_spec("pycolmap") is not None


@pytest.fixture(scope="session")
def album(corner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photos of the corner as JPEG, WebP, and one with an EXIF rotation."""
    folder = tmp_path_factory.mktemp("albums") / "corner"
    folder.mkdir()
    for i, angle in enumerate(ANGLES):
        picture = Image.fromarray(corner.render(angle, 240))
        exif = Image.Exif()
        if i == 4:
            exif[0x0112] = 6  # shown turned by 90 degrees
        suffix = "webp" if i == 5 else "jpg"
        picture.save(folder / f"photo {i + 2}.{suffix}", quality=95, exif=exif)
    return folder


@pytest.fixture(scope="session")
def posed(album: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """The capture that the album became."""
    if not HERE:
        pytest.skip("pycolmap is not installed")
    folder = tmp_path_factory.mktemp("ws") / "captures" / "corner"
    heard: list[Progress] = []
    prepare_source(album, "photos", folder, QUICK, heard.append)
    return folder, heard


def centers(capture: Capture) -> Tensor:
    return torch.stack([-(v.viewmat[:3, :3].T @ v.viewmat[:3, 3]) for v in capture.views])


def align(source: Tensor, target: Tensor) -> tuple[float, Tensor, Tensor]:
    """Scale, rotation and shift that bring points to points (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    left, values, right = torch.linalg.svd(b.T @ a)
    flip = torch.ones(3, dtype=torch.float64)
    flip[2] = torch.sign(torch.linalg.det(left @ right))
    rotation = left @ torch.diag(flip) @ right
    scale = float((values * flip).sum() / (a * a).sum())
    return scale, rotation, target.mean(0) - scale * rotation @ source.mean(0)


def test_poses_are_the_true_ones(posed: tuple[Path, list[Progress]], corner, album: Path) -> None:
    folder, heard = posed
    capture = read_capture(folder)
    assert capture.reader == "colmap" and not capture.metric
    assert len(capture.views) == len(ANGLES)
    # Sorted by name, "photo 10" comes before "photo 2".
    order = [int(view.image_path.stem.split()[1]) - 2 for view in capture.views]
    truth = torch.from_numpy(np.stack([corner.pose(ANGLES[i]) for i in order]))
    scale, rotation, shift = align(centers(capture), truth[:, :3, 3])
    moved = scale * centers(capture) @ rotation.T + shift
    assert float((moved - truth[:, :3, 3]).norm(dim=1).max()) < 0.03  # at 3.2 units from the axis
    for view, pose in zip(capture.views, truth, strict=True):
        turn = rotation @ view.viewmat[:3, :3].T @ pose[:3, :3].T
        angle = torch.rad2deg(torch.arccos(((turn.trace() - 1) / 2).clamp(-1, 1)))
        assert float(angle) < 1.0
        assert abs(float(view.K[0, 0]) - 225) < 5
    # The photos are those of the album, byte for byte, and still lie there.
    for view in capture.views:
        assert view.image_path.read_bytes() == (album / view.image_path.name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["images", "source.json", "sparse"]
    notes = " ".join(capture.notes)
    assert "9 of 9 photos got a pose, mean reprojection error 0." in notes
    assert "1 photos carry an EXIF rotation" in notes
    facts = json.loads((folder / "source.json").read_text())
    assert facts["figures"]["registered"] == facts["figures"]["photos"] == 9
    stages = list(dict.fromkeys(event.stage for event in heard))
    assert stages == ["corner: 9 photos without poses", "corner: features",
                      "corner: matching pairs", "corner: poses"]  # fmt: skip
    assert heard[-1].done == heard[-1].total == 9 and "9 registered" in heard[-1].note


def test_the_same_photos_give_the_same_bytes(
    posed: tuple[Path, list[Progress]], album: Path, tmp_path: Path
) -> None:
    prepare_source(album, "photos", tmp_path / "corner", QUICK, ignore)
    first, second = (
        {
            str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(root.rglob("*")) if file.is_file()
        }
        for root in (posed[0], tmp_path / "corner")
    )  # fmt: skip
    assert first == second


def test_photos_that_do_not_overlap(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    generator = np.random.default_rng(0)
    folder = tmp_path / "blank"
    for i in range(4):
        noise = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        save_png(folder / f"{i}.png", np.kron(noise, np.ones((10, 10, 1), np.uint8)))
    with pytest.raises(CaptureError) as caught:
        prepare_source(folder, "photos", tmp_path / "out/blank", QUICK, ignore)
    text = caught.value.what + caught.value.hint
    assert "only 0 of 4 photos got a pose (0 %), median 0 inliers between neighbours" in text
    assert "take sharper photos that overlap" in text and "transforms.json" in text
    assert not (tmp_path / "out").exists()


def few(options: SourceOptions, count: int = 150) -> str:
    names = [f"{i:06d}.jpg" for i in range(count)]
    photos = [Photo(Path(f"{i}.jpg"), (4032, 3024), (), False) for i in range(count)]
    poses = Poses(names[:3], 0.7, 90, [3, 2], dict.fromkeys(names, 250),
                  dict.fromkeys(pairwise(names), 14))  # fmt: skip
    error = module._too_few(Path("my photos"), poses, names, photos, options)
    return f"{error.where}: {error.what} - {error.hint}"


def test_few_poses_name_the_next_command() -> None:
    text = few(SourceOptions())
    assert text.startswith(
        "my photos: only 3 of 150 photos got a pose (2 %), median 14 inliers between neighbours, "
        "150 photos with fewer than 300 features"
    )
    assert (
        "try fit3d lift 'my photos' --set lift.source.matcher=exhaustive "
        "--set lift.source.max_side=3200; or give poses" in text
    )
    assert text.endswith("to go on with these, --set lift.source.min_registered=0")
    # What was tried already is not proposed again.
    done = few(SourceOptions(matcher="exhaustive", max_side=4032))
    assert "fit3d lift" not in done and "take sharper photos" in done
    assert "matcher" not in few(SourceOptions(), count=20)


def test_pairs() -> None:
    names = [f"{i:03d}" for i in range(200)]
    assert len(choose_pairs(names[:80], "auto")) == 80 * 79 // 2
    pairs = choose_pairs(names, "auto")
    assert pairs == choose_pairs(names, "sequential") == sorted(set(pairs))
    assert len(pairs) < 200 * 15
    assert ("000", "010") in pairs and ("000", "011") not in pairs
    assert ("003", "003") not in pairs and all(a < b for a, b in pairs)
    assert ("003", "035") in pairs  # 32 ahead
    assert ("000", "193") in pairs  # the ends of a loop, among the anchors
    assert len(choose_pairs(names, "exhaustive")) == 200 * 199 // 2
    assert choose_pairs(names[:1], "sequential") == []


def test_lenses() -> None:
    def photo(size: tuple[int, int], *lens: str) -> Photo:
        return Photo(Path("x.jpg"), size, lens, False)

    photos = {f"{i}": photo((40, 30), "phone", "4.2") for i in range(12)}
    photos["wide"] = photo((40, 30), "phone", "1.6")
    photos["upright"] = photo((30, 40), "phone", "4.2")
    lenses = module._lenses(photos, "auto", False)
    assert [(len(x.names), x.model, x.single) for x in lenses] == [
        (12, "OPENCV", True), (1, "SIMPLE_RADIAL", True), (1, "SIMPLE_RADIAL", True),
    ]  # fmt: skip
    assert [len(x.names) for x in module._lenses(photos, "single", False)] == [13, 1]
    (each,) = module._lenses(photos, "per-image", False)
    assert not each.single and len(each.names) == 14


def test_formats_that_must_be_converted(tmp_path: Path) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    for i in range(3):
        (folder / f"IMG_{i}.HEIC").write_bytes(b"x")
    assert module.sniff(folder) and module.describe(folder) == "3 HEIC photos"
    with pytest.raises(CaptureError, match=r"3 photos in a format.*magick mogrify"):
        make(folder, tmp_path, QUICK, ignore)


def test_numbers_order_the_photos(tmp_path: Path) -> None:
    for name in ("a10.jpg", "a9.jpg", "._a9.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [f.name for f in photo_files(tmp_path)] == ["a9.jpg", "a10.jpg"]


def test_without_pycolmap(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'fit3d\[sfm\]'") as caught:
        prepare_source(album, "photos", tmp_path / "out/corner", QUICK, ignore)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


WORKERS: dict[str, tuple[str, str]] = {
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "signal 6"),
    "raises": ("raise MemoryError('no memory left')", "no memory left"),
    "says nothing": ("", "exit code 0"),
}


@pytest.mark.parametrize("case", WORKERS)
def test_a_worker_that_fails(
    case: str, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, words = WORKERS[case]
    monkeypatch.setattr(sfm, "require_pycolmap", lambda path: None)
    monkeypatch.setattr(module, "require_pycolmap", lambda path: None)
    monkeypatch.setattr(sfm, "WORKER", [sys.executable, "-c", code])
    with pytest.raises(EnvironmentFault, match=rf"pycolmap stopped \(.*{words}.*max_side"):
        prepare_source(album, "photos", tmp_path / "out/corner", QUICK, ignore)
    assert not (tmp_path / "out").exists()


SLEEPER = """
import json, os, sys, time
sys.stdin.readline()
print(json.dumps({"stage": "features", "done": os.getpid(), "total": 1 << 30}), flush=True)
time.sleep(60)
"""


def test_ctrl_c_ends_the_worker(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sfm, "require_pycolmap", lambda path: None)
    monkeypatch.setattr(module, "require_pycolmap", lambda path: None)
    monkeypatch.setattr(sfm, "WORKER", [sys.executable, "-c", SLEEPER])
    pids: list[int] = []

    def hear(event: Progress) -> None:
        if event.stage.endswith("features"):
            pids.append(event.done)
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            prepare_source(album, "photos", tmp_path / "out/corner", QUICK, hear)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert not (tmp_path / "out").exists()


def test_the_worker_ends_with_its_caller() -> None:
    with subprocess.Popen(
        [*sfm.WORKER], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        began = time.monotonic()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) != 0
        assert time.monotonic() - began < 60


def test_hard_links_or_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "a/p.png"
    save_png(photo, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b").mkdir()
    module._keep(photo, tmp_path / "b/images/p.png", True)
    assert (tmp_path / "b/images/p.png").stat().st_ino == photo.stat().st_ino

    def refuse(*_: object, **__: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(module.os, "link", refuse)
    (tmp_path / "c").mkdir()
    module._keep(photo, tmp_path / "c/images/p.png", True)
    copied = tmp_path / "c/images/p.png"
    assert copied.stat().st_ino != photo.stat().st_ino
    np.testing.assert_array_equal(read_image(copied), read_image(photo))
