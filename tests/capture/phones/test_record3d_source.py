"""``.r3d`` files: what is unpacked, what is refused."""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources.base import SOURCES, SourceOptions
from fit3d_cli.capture.sources.find import find_scans
from fit3d_cli.capture.sources.prepare import prepare_source
from fit3d_cli.capture.sources.record3d import make, sniff, unpacked_size
from fit3d_cli.errors import CaptureError
from fit3d_cli.progress import ignore


def stored(data: bytes) -> bytes:
    """An LZFSE stream of one block that is not compressed."""
    return b"bvx-" + struct.pack("<I", len(data)) + data + b"bvx$"


def metres(phones: Any, index: int) -> bytes:
    depth = phones.depth_map(index).astype("<f4") / 1000
    depth[0, :4] = [np.nan, np.inf, -1.0, 70.0]
    return bytes(depth.tobytes())


def photo(phones: Any, index: int) -> bytes:
    buffer = io.BytesIO()
    texture = phones.trees.texture(index, phones.width, phones.height)
    Image.fromarray(texture).save(buffer, "JPEG")
    return buffer.getvalue()


def members(phones: Any) -> dict[str, bytes]:
    result = {"icon": b"x", "sound.m4a": b"x", "metadata": json.dumps(
        phones.record3d_metadata()).encode()}  # fmt: skip
    for i in range(phones.count):
        result[f"rgbd/{i}.jpg"] = photo(phones, i)
        result[f"rgbd/{i}.depth"] = stored(metres(phones, i))
        result[f"rgbd/{i}.conf"] = b"x"
    return result


def pack(path: Path, content: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_unpacked_recording_is_a_capture(phones, tmp_path: Path) -> None:
    pytest.importorskip("liblzfse")
    path = pack(tmp_path / "walk.r3d", members(phones))
    source = SOURCES.get("record3d")
    assert sniff(path) and not sniff(tmp_path) and source.files(path) == [path]
    events = []
    make(path, tmp_path / "out", SourceOptions(), events.append)
    assert [(e.done, e.total) for e in events] == [(i, 5) for i in range(6)]
    assert names(tmp_path / "out") == {"metadata"} | {
        f"{place}.{suffix}"
        for i in range(5)
        for place, suffix in ((f"rgbd/{i}", "jpg"), (f"depth/{i}", "png"))
    }
    capture = read_capture(tmp_path / "out")
    assert capture.reader == "record3d" and capture.notes == ()
    torch.testing.assert_close(
        torch.stack([v.viewmat for v in capture.views]), phones.viewmats, atol=1e-9, rtol=0
    )
    assert (tmp_path / "out/rgbd/2.jpg").read_bytes() == photo(phones, 2)
    with Image.open(tmp_path / "out/depth/2.png") as image:
        depth = np.array(image)
    assert depth.dtype == np.uint16 and not depth[0, :4].any()
    assert np.array_equal(depth[1:], phones.depth_map(2)[1:])


def test_lifting_keeps_it_once_made(phones, tmp_path: Path) -> None:
    pytest.importorskip("liblzfse")
    path = pack(tmp_path / "walk.r3d", members(phones))
    (scan,) = find_scans(path)
    assert (scan.name, scan.source, scan.readers) == ("walk", "record3d", ())
    folder = tmp_path / "captures/walk"
    assert prepare_source(path, "record3d", folder, SourceOptions(), ignore)
    assert not prepare_source(path, "record3d", folder, SourceOptions(), ignore)
    assert read_capture(folder).views[1].depth_path == folder / "depth/1.png"
    assert prepare_source(path, "record3d", folder, SourceOptions(frames=2), ignore)
    assert len(read_capture(folder).views) == 2
    pack(path, members(phones) | {"rgbd/3.depth": b"junk"})
    with pytest.raises(CaptureError, match=r"walk\.r3d: rgbd/3\.depth"):
        prepare_source(path, "record3d", folder, SourceOptions(), ignore)
    assert len(read_capture(folder).views) == 2  # the old one is whole
    assert [p.name for p in folder.parent.iterdir() if not p.name.startswith(".")] == ["walk"]


def test_compressed_depth(phones, tmp_path: Path) -> None:
    liblzfse = pytest.importorskip("liblzfse")
    content = members(phones)
    rng = np.random.default_rng(0)
    noise = (1 + rng.random(phones.depth_map(0).shape)).astype("<f4")
    smooth = np.full_like(noise, 1.5)
    for i, depth in enumerate((noise, smooth)):
        content[f"rgbd/{i}.depth"] = packed = liblzfse.compress(depth.tobytes())
        assert unpacked_size(packed) == depth.nbytes
    # Without their size in the metadata, the photo's shape decides.
    metadata = json.loads(content["metadata"])
    del metadata["dw"], metadata["dh"]
    content["metadata"] = json.dumps(metadata).encode()
    make(pack(tmp_path / "a.r3d", content), tmp_path / "out", SourceOptions(), ignore)
    for i, depth in enumerate((noise, smooth)):
        with Image.open(tmp_path / f"out/depth/{i}.png") as image:
            assert np.array_equal(np.array(image), np.rint(depth.astype(float) * 1000))


@pytest.mark.parametrize("size", [1000, 200_000, 3_000_000])
def test_sizes_are_those_of_the_library(size: int) -> None:
    liblzfse = pytest.importorskip("liblzfse")
    rng = np.random.default_rng(size)
    for data in (rng.bytes(size), bytes(size), (b"depth" * size)[:size],
                 np.cumsum(rng.integers(0, 3, size // 4)).astype("<f4").tobytes()):  # fmt: skip
        packed = liblzfse.compress(data)
        assert unpacked_size(packed) == len(data)
        for cut in (1, len(packed) // 2, len(packed) - 2):
            with pytest.raises(ValueError, match="LZFSE"):
                unpacked_size(packed[:cut])


def test_without_the_decompressor(phones, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "liblzfse", None)
    content = members(phones)
    make(pack(tmp_path / "a.r3d", content), tmp_path / "out", SourceOptions(), ignore)
    assert names(tmp_path / "out") == {"metadata", "source.json"} | {
        f"rgbd/{i}.jpg" for i in range(5)
    }
    capture = read_capture(tmp_path / "out")
    assert all(view.depth_path is None for view in capture.views)
    assert len(capture.notes) == 1 and "pip install pyliblzfse" in capture.notes[0]


def test_which_frames(phones, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "liblzfse", None)
    content = {n: d for n, d in members(phones).items() if not n.endswith((".depth", ".conf"))}
    path = pack(tmp_path / "a.r3d", content)

    def taken(frames: int, name: str) -> list[str]:
        make(path, tmp_path / name, SourceOptions(frames=frames), ignore)
        return sorted(n for n in names(tmp_path / name) if n.endswith("jpg"))

    assert taken(2, "two") == ["rgbd/1.jpg", "rgbd/3.jpg"]
    assert taken(1, "one") == taken(2, "again")  # a capture needs two
    assert taken(99, "all") == [f"rgbd/{i}.jpg" for i in range(5)]
    two = read_capture(tmp_path / "two")
    torch.testing.assert_close(two.views[1].viewmat, phones.viewmats[3], atol=1e-9, rtol=0)
    # 5 mm and half a degree are too little to differ, their sums are not.
    metadata = phones.record3d_metadata()
    half = float(np.sin(np.radians(0.25)))
    metadata["poses"] = [[0, 0, 0, 1, 0.005 * i, 0, 0] for i in range(3)] + [
        [0, half * i, 0, (1 - (half * i) ** 2) ** 0.5, 0.010, 0, 0] for i in (1, 2.01)
    ]
    path = pack(tmp_path / "b.r3d", content | {"metadata": json.dumps(metadata).encode()})
    assert taken(0, "differ") == ["rgbd/0.jpg", "rgbd/2.jpg", "rgbd/4.jpg"]


def test_nothing_else_is_written(phones, tmp_path: Path) -> None:
    pytest.importorskip("liblzfse")
    content = members(phones) | {
        "../evil.jpg": b"x", "rgbd/../../evil.jpg": b"x", "/evil.jpg": b"x", "rgbd/0.jpg/x": b"x",
        "rgbd/٣.jpg": b"x", "..\\evil": b"x", "depth/0.png": b"x", "rgbd/": b"",
    }  # fmt: skip
    make(pack(tmp_path / "a.r3d", content), tmp_path / "deep/out", SourceOptions(), ignore)
    assert len(names(tmp_path / "deep/out")) == 11
    assert not [n for n in names(tmp_path) if "evil" in n]
    read_capture(tmp_path / "deep/out")


def test_a_packed_folder(phones, tmp_path: Path) -> None:
    content = {f"2026-11-21--15-01-03/{n}": d for n, d in members(phones).items()}
    make(pack(tmp_path / "a.r3d", content), tmp_path / "out", SourceOptions(), ignore)
    assert len(read_capture(tmp_path / "out").views) == phones.count


def change(**fields: Any) -> Callable[[dict[str, bytes]], object]:
    def apply(content: dict[str, bytes]) -> None:
        data = json.loads(content["metadata"]) | fields
        content["metadata"] = json.dumps(data).encode()

    return apply


FACES = {"poses": [[0, 0, 0, 1, 0, 0, 0]] * 5}
DAMAGES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no metadata": (lambda c: c.pop("metadata"), "0 metadata files"),
    "two metadata": (lambda c: c.update({"a/metadata": b"{}"}), "2 metadata files"),
    "bad JSON": (lambda c: c.update(metadata=b"{"), "metadata: not JSON"),
    "no poses": (change(poses=[]), "metadata: no poses - record with the LiDAR camera"),
    "face camera": (change(**FACES), "metadata: all 5 poses are the same"),
    "text": (change(w="x"), "metadata: w: expected a number"),
    "no photos": (
        lambda c: [c.pop(f"rgbd/{i}.jpg") for i in range(5)], "0 frames with a photo and a pose"),
    "depth of other data": (
        lambda c: c.update({"rgbd/2.depth": b"hello"}), "rgbd/2.depth: cut LZFSE data"),
    "depth not LZFSE": (
        lambda c: c.update({"rgbd/2.depth": b"x" * 99}), "rgbd/2.depth: not LZFSE data"),
    "depth cut": (
        lambda c: c.update({"rgbd/2.depth": c["rgbd/2.depth"][:99]}), "rgbd/2.depth: cut LZFSE"),
    "depth short": (
        lambda c: c.update({"rgbd/2.depth": stored(b"abcd")}), "1 depth values are not 32x24"),
    "depth bomb": (
        lambda c: c.update({"rgbd/2.depth": b"bvxn" + struct.pack("<II", 1 << 31, 0) + b"bvx$"}),
        "536870912 depth values are not 32x24"),
    "depth damaged": (
        lambda c: c.update({"rgbd/2.depth": b"bvxn" + struct.pack("<II", 3072, 4) + b"zzzzbvx$"}),
        "rgbd/2.depth: damaged LZFSE data"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage(phones, tmp_path: Path, case: str) -> None:
    pytest.importorskip("liblzfse")
    content = members(phones)
    damage, words = DAMAGES[case]
    damage(content)
    path = pack(tmp_path / "walk.r3d", content)
    with pytest.raises(CaptureError) as caught:
        make(path, tmp_path / "out", SourceOptions(frames=99), ignore)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)
    assert caught.value.hint


def test_not_a_zip_and_cut_zips(phones, tmp_path: Path) -> None:
    path = tmp_path / "walk.r3d"
    pack(path, members(phones), compression=zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    for at in range(40, len(whole) // 2, 7):
        damaged[at] ^= 0x55
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:-30], bytes(damaged)):
        path.write_bytes(data)
        with pytest.raises(CaptureError, match=r"walk\.r3d.* - "):
            make(path, tmp_path / "out", SourceOptions(), ignore)
    path.unlink()
    with pytest.raises(CaptureError, match=r"walk\.r3d"):
        make(path, tmp_path / "out", SourceOptions(), ignore)


def test_encrypted(phones, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.r3d", members(phones))
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 4)
    path.write_bytes(bytes(data))
    with pytest.raises(CaptureError, match="encrypted"):
        make(path, tmp_path / "out", SourceOptions(), ignore)


def test_bombs(phones, tmp_path: Path, monkeypatch: Any) -> None:
    content = members(phones) | {"rgbd/1.jpg": bytes(50 << 20)}
    path = pack(tmp_path / "a.r3d", content, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CaptureError, match="claims to unpack to 52"):
        make(path, tmp_path / "out", SourceOptions(), ignore)
    monkeypatch.setattr("fit3d_cli.capture.sources.record3d._MAX_SWELLING", 1 << 40)
    monkeypatch.setattr("fit3d_cli.capture.sources.record3d._MAX_FRAME_BYTES", 1 << 20)
    with pytest.raises(CaptureError, match=r"rgbd/1\.jpg: more than 1048576 bytes"):
        make(path, tmp_path / "out", SourceOptions(frames=99), ignore)


def test_a_photo_twice(phones, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.r3d", members(phones))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("rgbd/1.jpg", b"x")
    with pytest.raises(CaptureError, match=r"rgbd/1\.jpg is there twice"):
        make(path, tmp_path / "out", SourceOptions(), ignore)
