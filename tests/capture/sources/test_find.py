"""What lies at a path: readers before sources, folders of both, parts of damaged captures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources.find import Scan, check_names, find_scans
from fit3d_cli.errors import CaptureError, UnknownNameError

LAYOUTS = ["rgbd", "transforms", "cameras-json", "colmap"]
DEPTH = np.full((32, 48), 1500, np.uint16)


def photos(trees, folder: Path, count: int = 3) -> Path:
    for i in range(count):
        trees.save(folder / f"p{i}.jpg", trees.texture(i))
    return folder


def names(scans: list[Scan]) -> list[tuple[str, str]]:
    return [(scan.name, scan.source or scan.readers[0]) for scan in scans]


def test_a_capture_and_a_folder_of_captures(trees, tmp_path: Path) -> None:
    for layout in reversed(LAYOUTS):
        trees.write(layout, tmp_path / "all" / layout)
    trees.write("rgbd", tmp_path / "all/.hidden")
    (tmp_path / "all/empty").mkdir()
    assert [scan.name for scan in find_scans(tmp_path / "all")] == sorted(LAYOUTS)
    assert names(find_scans(tmp_path / "all", "rgbd")) == [("rgbd", "rgbd")]
    one = tmp_path / "all/colmap"
    (found,) = find_scans(one)
    assert found == Scan(one, "colmap", ("colmap",))
    assert found.describe().endswith("(reader colmap)")
    with pytest.raises(UnknownNameError, match="rgbd"):
        find_scans(one, "rgdb")
    with pytest.raises(CaptureError, match=r"RGB-D"):
        find_scans(one, "rgbd")


def test_sources_beside_captures(trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write("colmap", tmp_path / "kitchen")
    photos(trees, tmp_path / "garden")
    (tmp_path / "hall.mp4").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("x")
    found = find_scans(tmp_path)
    assert names(found) == [("garden", "photos"), ("hall", "video"), ("kitchen", "colmap")]
    assert found[0].describe() == "3 JPEG photos without poses (source photos)"
    assert names(find_scans(tmp_path / "hall.mp4")) == [("hall", "video")]
    assert names(find_scans(tmp_path, "video")) == [("hall", "video")]
    monkeypatch.chdir(tmp_path / "garden")
    assert names(find_scans(Path())) == [("garden", "photos")]


def test_photos_lie_in_the_folder_or_in_images(trees, tmp_path: Path) -> None:
    photos(trees, tmp_path / "a/images")
    assert names(find_scans(tmp_path / "a")) == [("a", "photos")]
    photos(trees, tmp_path / "b", 2)  # too few
    with pytest.raises(CaptureError, match="neither a capture"):
        find_scans(tmp_path / "b")
    # Poses are there: the reader wins; asked for, the photos are posed anew.
    trees.write("colmap", tmp_path / "c")
    photos(trees, tmp_path / "c")
    assert names(find_scans(tmp_path / "c")) == [("c", "colmap")]
    assert names(find_scans(tmp_path / "c", "photos")) == [("c", "photos")]


def test_parts_of_a_damaged_capture_are_no_scans(trees, tmp_path: Path) -> None:
    photos(trees, tmp_path / "scene/color")
    photos(trees, tmp_path / "scene/depth")
    with pytest.raises(CaptureError, match="neither a capture"):
        find_scans(tmp_path / "scene")
    for i in range(4):
        trees.save(tmp_path / f"depths/{i}.png", DEPTH)
        trees.save(tmp_path / f"mixed/{i}.color.png", trees.texture(i))
        trees.save(tmp_path / f"mixed/{i}.depth.png", DEPTH)
    for name in ("depths", "mixed"):
        with pytest.raises(CaptureError, match="neither a capture"):
            find_scans(tmp_path / name)


def test_what_cannot_be_lifted_says_what_can(trees, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptureError) as caught:
        find_scans(tmp_path / "empty")
    for word in ("an empty folder", "colmap", "transforms", "sens", "photos", "video"):
        assert word in str(caught.value)
    with pytest.raises(CaptureError, match="no such file or directory"):
        find_scans(tmp_path / "absent")
    trees.save(tmp_path / "a.jpg", trees.texture(0))
    with pytest.raises(CaptureError, match="give the folder"):
        find_scans(tmp_path / "a.jpg")


def test_other_verbs_name_lift(trees, tmp_path: Path) -> None:
    folder = photos(trees, tmp_path / "my photos")
    with pytest.raises(
        CaptureError, match=r"3 JPEG photos without poses.*fit3d lift '.*my photos'"
    ):
        read_capture(folder)
    (tmp_path / "v.mp4").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"MP4 video.*fit3d lift"):
        read_capture(tmp_path / "v.mp4")
    with pytest.raises(CaptureError, match="no such"):
        read_capture(tmp_path / "absent")


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    scans = [Scan(tmp_path / "a", "a"), Scan(tmp_path / "a.mp4", "a", source="video")]
    with pytest.raises(CaptureError, match=r"a\.mp4.*two captures are called 'a'"):
        check_names(scans)
    check_names(scans[:1])
