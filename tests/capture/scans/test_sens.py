"""ScanNet's container: what comes out, and every way in which it may be damaged or hostile."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources.base import SOURCES, SourceOptions
from fit3d_cli.capture.sources.facts import source_figures
from fit3d_cli.capture.sources.prepare import prepare_source
from fit3d_cli.errors import CaptureError
from fit3d_cli.progress import Progress, ignore


def unpack(path: Path, folder: Path, frames: int = 0) -> Path:
    folder.mkdir()
    SOURCES.get("sens").make(path, folder, SourceOptions(frames=frames), ignore)
    return folder


@pytest.mark.parametrize("kinds", [(2, 1), (0, 0), (2, 0), (0, 1)])
def test_unpacked_frames_are_the_scan(scans, tmp_path: Path, kinds: tuple[int, int]) -> None:
    source = scans.sens_file(tmp_path / "scene0000_00.sens", kinds)
    root = unpack(source, tmp_path / "out")
    names = {p.name for p in root.iterdir()}
    assert names == {"color", "depth", "intrinsic", "pose", "source.json"}
    capture = read_capture(root)
    assert capture.notes == ("1 of 5 frames without a pose left out",)
    expected = read_capture(scans.write("scannet", tmp_path / "exported"))
    assert capture.reader == "scannet"
    suffix = "jpg" if kinds[0] == 2 else "png"
    assert [view.name for view in capture.views] == [f"color/{i}.{suffix}" for i in (0, 2, 3, 4)]
    for found, truth in zip(capture.views, expected.views, strict=True):
        torch.testing.assert_close(found.viewmat, truth.viewmat, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.K, truth.K, atol=1e-5, rtol=0)
        a, b = load_frame(found, 48, 36), load_frame(truth, 48, 36)
        assert a.depth is not None and b.depth is not None
        torch.testing.assert_close(a.depth, b.depth, atol=1e-5, rtol=0)
        assert float((a.image - b.image).abs().mean()) < 0.01


def test_the_photo_is_copied_bit_for_bit(scans, tmp_path: Path) -> None:
    source = scans.sens_file(tmp_path / "s.sens")
    root = unpack(source, tmp_path / "out")
    assert (root / "color/0.jpg").read_bytes() in source.read_bytes()


def test_other_depth_units_become_millimetres(scans, tmp_path: Path) -> None:
    root = unpack(scans.sens_file(tmp_path / "s.sens", scale=5000.0), tmp_path / "out")
    plain = unpack(scans.sens_file(tmp_path / "p.sens"), tmp_path / "plain")
    a, b = (np.array(Image.open(r / "depth/3.png")).astype(int) for r in (root, plain))
    assert np.abs(a - b).max() <= 1 and a.min() > 1000


def test_some_frames_evenly_spread(scans, tmp_path: Path) -> None:
    source = scans.sens_file(tmp_path / "folder/s.sens")
    assert [f.name for f in SOURCES.get("sens").files(tmp_path / "folder")] == ["s.sens"]
    told: list[Progress] = []
    folder = tmp_path / "out"
    folder.mkdir()
    SOURCES.get("sens").make(tmp_path / "folder", folder, SourceOptions(frames=2), told.append)
    assert sorted(p.stem for p in (folder / "pose").iterdir()) == ["2", "4"]  # of 0 2 3 4
    assert (told[-1].done, told[-1].total) == (2, 2)
    assert "2 of 4 frames taken, evenly spread" in read_capture(folder).notes
    assert source_figures(folder) == {"frames": 5, "without_pose": 1, "photos": 2}
    assert len(list((unpack(source, tmp_path / "all", 99) / "pose").iterdir())) == 4


def test_a_camera_at_rest_gives_one_frame(scans, tmp_path: Path) -> None:
    creep = scans.pose(0)
    creep[0, 3] += 0.004
    frames = [scans.sens_frame(0), scans.sens_frame(0, at=creep), scans.sens_frame(1)]
    source = tmp_path / "s.sens"
    source.write_bytes(scans.sens_header(frames=3) + b"".join(frames))
    root = unpack(source, tmp_path / "out")
    assert sorted(p.stem for p in (root / "pose").iterdir()) == ["0", "2"]
    assert read_capture(root).notes == ("2 of 3 frames taken, those whose camera moved",)
    assert len(list((unpack(source, tmp_path / "all", 3) / "pose").iterdir())) == 3


def test_sniff(scans, tmp_path: Path) -> None:
    sniff = SOURCES.get("sens").sniff
    scans.sens_file(tmp_path / "one/a.SENS")
    scans.sens_file(tmp_path / "two/a.sens")
    scans.sens_file(tmp_path / "two/b.sens")
    (tmp_path / "empty").mkdir()
    assert sniff(tmp_path / "one") and sniff(tmp_path / "one/a.SENS")
    assert sniff(tmp_path / "two/a.sens")
    for other in ("two", "empty", "absent", "one/a.txt"):
        assert not sniff(tmp_path / other)


def test_describe(scans, tmp_path: Path) -> None:
    describe = SOURCES.get("sens").describe
    assert describe is not None
    source = scans.sens_file(tmp_path / "one/a.sens")
    assert describe(tmp_path / "one") == "a .sens file (ScanNet), 5 frames of 96x72"
    source.write_bytes(b"short")
    assert describe(source) == "a .sens file (ScanNet)"


def test_prepared_as_lift_does(scans, tmp_path: Path) -> None:
    source = scans.sens_file(tmp_path / "scene0000_00.sens")
    folder = tmp_path / "captures/scene0000_00"
    assert prepare_source(source, "sens", folder, SourceOptions(), ignore)
    assert not prepare_source(source, "sens", folder, SourceOptions(), ignore), "kept"
    assert len(read_capture(folder).views) == 4
    source.write_bytes(source.read_bytes()[:3000])
    with pytest.raises(CaptureError, match=r"scene0000_00\.sens: frame 0: "):
        prepare_source(source, "sens", folder, SourceOptions(), ignore)
    assert len(read_capture(folder).views) == 4, "the whole one is still there"


def test_memory_is_that_of_one_frame(scans, tmp_path: Path) -> None:
    # A dozen frames of 1 MB, of which the JPEG takes but a little.
    frames = []
    for i in range(12):
        at = scans.pose(0)
        at[0, 3] += 0.1 * i
        color = scans.jpeg(scans.photo(i, 96, 72)) + bytes(1 << 20)
        frames.append(scans.sens_frame(0, color=color, at=at))
    source = tmp_path / "big.sens"
    source.write_bytes(scans.sens_header(frames=12) + b"".join(frames))
    del frames
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    SOURCES.get("sens").make(source, tmp_path / "out", SourceOptions(), ignore)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(list((tmp_path / "out/color").iterdir())) == 12
    assert peak < 5 << 20


def test_every_cut_is_told(scans, tmp_path: Path) -> None:
    source = scans.sens_file(tmp_path / "s.sens")
    whole = source.read_bytes()[: -8 - 128]
    for number, size in enumerate([*range(0, 400, 13), *range(400, len(whole), 1777)]):
        source.write_bytes(whole[:size])
        with pytest.raises(CaptureError) as caught:
            unpack(source, tmp_path / f"out{number}")
        assert "s.sens" in str(caught.value) and caught.value.hint
        assert not list((tmp_path / f"out{number}").iterdir()), "nothing is written before"
    source.write_bytes(whole)
    unpack(source, tmp_path / "whole")


BOMB = zlib.compress(bytes(16 << 20), 1)
# What is hostile: the header, the frames, words of the message.
HOSTILE: dict[str, Callable[..., tuple[bytes, list[bytes], str]]] = {
    "another format": lambda s: (b"\x89PNG\r\n\x1a\n" + bytes(500), [], "version"),
    "version 3": lambda s: (s.sens_header(version=3), [], "version 3 of the .sens format"),
    "endless name": lambda s: (
        s.sens_header(name_bytes=2**63), [], "sensor name of 9223372036854775808 bytes"),
    "frames without end": lambda s: (
        s.sens_header(frames=2**62), [s.sens_frame(0)], "4611686018427387904 frames promised"),
    "negative number of frames": lambda s: (
        s.sens_header(frames=2**64 - 1), [s.sens_frame(0)], "frames promised"),
    "no frames": lambda s: (s.sens_header(frames=0), [], "0 of 0 frames have a pose"),
    "one frame": lambda s: (
        s.sens_header(frames=1), [s.sens_frame(0)], "1 of 1 frames have a pose"),
    "all lost": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(i, lost=True) for i in (0, 1)],
        "0 of 2 frames have a pose"),
    "huge photos": lambda s: (
        s.sens_header(sizes=(2**31, 2**31, 48, 36)), [], "photos of 2147483648x2147483648"),
    "no depth pixels": lambda s: (
        s.sens_header(sizes=(96, 72, 0, 36)), [], "depth maps of 0x36"),
    "depth of no unit": lambda s: (s.sens_header(scale=0.0), [], "0 depth units per metre"),
    "depth of NaN unit": lambda s: (
        s.sens_header(scale=float("nan")), [], "nan depth units per metre"),
    "camera of NaN": lambda s: (
        s.sens_header(focal=float("nan")), [], "camera matrices without sense"),
    "unknown colour": lambda s: (
        s.sens_header(kinds=(7, 1)), [], "colour compression 7, depth compression 1"),
    "occipital depth": lambda s: (
        s.sens_header(kinds=(2, 2)), [], "colour compression 2, depth compression 2"),
    "endless photo": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(0, sizes=(2**63, 9)), s.sens_frame(1)],
        "frame 0: 9223372036854775808 and 9 bytes of pictures"),
    "sizes that wrap round": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(0, sizes=(2**64 - 8, 8)), s.sens_frame(1)],
        "frame 0: 18446744073709551608 and 8 bytes"),
    "photo of another size": lambda s: (
        s.sens_header(sizes=(72, 96, 48, 36), frames=2), [s.sens_frame(i) for i in (0, 1)],
        "frame 0: photo: 96x72, the header says 72x96"),
    "photo that is none": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(i, color=b"hello") for i in (0, 1)],
        "frame 0: photo: not a JPEG"),
    "raw photo too short": lambda s: (
        s.sens_header(kinds=(0, 1), frames=2),
        [s.sens_frame(i, (0, 1), color=bytes(99)) for i in (0, 1)],
        "frame 0: colour: 99 bytes, expected 20736"),
    "raw depth too long": lambda s: (
        s.sens_header(kinds=(2, 0), frames=2),
        [s.sens_frame(i, (2, 0), depth=bytes(9999)) for i in (0, 1)],
        "frame 0: depth: 9999 bytes, expected 3456"),
    "depth not zlib": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(i, depth=b"\x00" * 50) for i in (0, 1)],
        "frame 0: depth: not zlib"),
    "depth cut off": lambda s: (
        s.sens_header(frames=2),
        [s.sens_frame(i, depth=zlib.compress(bytes(3456))[:-6]) for i in (0, 1)],
        "frame 0: depth: "),
    "depth too short": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(i, depth=zlib.compress(bytes(9))) for i in (0, 1)],
        "frame 0: depth: 9 bytes unpacked, expected 3456"),
    "depth that explodes": lambda s: (
        s.sens_header(frames=2), [s.sens_frame(i, depth=BOMB) for i in (0, 1)],
        "frame 0: depth: more bytes unpacked, expected 3456"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(scans, tmp_path: Path, case: str) -> None:
    header, frames, words = HOSTILE[case](scans)
    source = tmp_path / "s.sens"
    source.write_bytes(header + b"".join(frames))
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    with pytest.raises(CaptureError) as caught:
        SOURCES.get("sens").make(source, tmp_path / "out", SourceOptions(), ignore)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20
    message = str(caught.value)
    assert "s.sens" in message and words in message and "\n" not in message
    assert caught.value.hint and caught.value.exit_code == 2


def test_a_gap_in_the_file_is_not_read(scans, tmp_path: Path) -> None:
    """A frame's pictures are passed over until they are wanted: a sparse terabyte takes no time."""
    source = tmp_path / "s.sens"
    first, second = scans.sens_frame(0), scans.sens_frame(1)
    lost = np.full(16, -np.inf, "<f4").tobytes() + struct.pack("<4Q", 0, 0, 200 << 20, 200 << 20)
    with source.open("wb") as file:
        file.write(scans.sens_header(frames=4) + first)
        for _ in range(2):
            file.write(lost)
            file.seek(400 << 20, 1)
        file.write(second)
    assert source.stat().st_size > 800 << 20
    root = unpack(source, tmp_path / "out")
    assert sorted(p.name for p in (root / "pose").iterdir()) == ["0.txt", "3.txt"]
