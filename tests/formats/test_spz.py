"""Niantic's ``.spz``: bounds of its quantisation, all versions by hand, bombs and damage."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zstandard
from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats import describe_gaussians, read_gaussians, spz, write_gaussians
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat.reference import spherical_harmonics

Apart = Callable[[Tensor, Tensor], float]
SQRT_HALF = 0.5**0.5


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_within_quantisation(
    tmp_path: Path, make: Callable[..., Gaussians], quats_apart: Apart, degree: int
) -> None:
    path, again, ply = tmp_path / "a.spz", tmp_path / "b.spz", tmp_path / "a.ply"
    before = make(degree=degree)
    write_gaussians(ply, before)
    write_gaussians(path, read_gaussians(ply))
    after = read_gaussians(path)
    bits = describe_gaussians(path)["fractional_bits"]
    assert before.means.abs().max() * 2**bits > 2**22  # no bit is given away
    # Half of the step of each field; the frame is that of the .ply.
    assert (after.means - before.means).abs().max() <= 0.5 / 2**bits + 1e-6
    assert (after.scales.log() - before.scales.log()).abs().max() <= 0.5 / 16 + 1e-5
    assert (after.opacities - before.opacities).abs().max() <= 0.5 / 255 + 1e-6
    assert (after.sh[:, 0] - before.sh[:, 0]).abs().max() <= 0.5 / 255 / 0.15 + 1e-5
    # Three fields of half a step each; the largest follows from them, at most three times as far.
    assert quats_apart(after.quats, before.quats) <= 3 * 0.5 * SQRT_HALF / 511 + 1e-6
    assert after.sh.shape == before.sh.shape
    if degree:
        clamped = before.sh[:, 1:].clamp(-1, 127 / 128)
        assert (after.sh[:, 1:] - clamped).abs().max() <= 0.5 / 128 + 1e-6
    write_gaussians(again, after)
    twice = read_gaussians(again)  # nothing is lost a second time
    for field in ("means", "scales", "opacities", "sh"):
        assert torch.equal(getattr(twice, field), getattr(after, field)), field
    # But where two components are as large, another of them may be left out.
    assert quats_apart(twice.quats, after.quats) <= 3 * 0.5 * SQRT_HALF / 511 + 1e-6


def test_the_same_gaussians_make_the_same_bytes(
    tmp_path: Path, make: Callable[..., Gaussians]
) -> None:
    for name in ("a", "b"):
        write_gaussians(tmp_path / f"{name}.spz", make())
    raw = (tmp_path / "a.spz").read_bytes()
    assert raw == (tmp_path / "b.spz").read_bytes()
    assert gzip.decompress(raw)[:16] == struct.pack("<4sIIBBBB", b"NGSP", 3, 300, 3, 19, 0, 0)
    write_gaussians(tmp_path / "c.ply", make())
    assert len(raw) < (tmp_path / "c.ply").stat().st_size / 3


@pytest.mark.parametrize("count", [0, 1])
def test_few(tmp_path: Path, make: Callable[..., Gaussians], count: int) -> None:
    path = tmp_path / "a.spz"
    write_gaussians(path, make(count, degree=0))
    assert len(read_gaussians(path)) == count


def test_extents_that_fit_and_that_do_not(tmp_path: Path, make: Callable[..., Gaussians]) -> None:
    path = tmp_path / "a.spz"
    for extent, bits in ((1e-3, 23), (0.99, 23), (1.0, 22), (3000.0, 11), (5e5, 4)):
        far = replace(make(4), means=torch.full((4, 3), -extent))
        write_gaussians(path, far)
        assert describe_gaussians(path)["fractional_bits"] == bits
        assert (read_gaussians(path).means + extent).abs().max() <= 0.5 / 2**bits + 1e-6 * extent
    path.unlink()
    with pytest.raises(ArchiveError, match=r"6e\+05 units .* 24 bits - write a \.ply"):
        write_gaussians(path, replace(make(4), means=torch.full((4, 3), 6e5)))
    assert not list(tmp_path.iterdir())


def test_rotation_and_colour_move_with_the_axes() -> None:
    """A view-dependent colour, seen through flipped axes, is that of flipped directions."""
    draw = torch.Generator().manual_seed(0)
    sh = torch.randn(5, 16, 3, generator=draw)
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=draw), dim=1)
    for axes in ("RUB", "LUF", "RDF", "LDB"):
        signs = spz._axis_signs(axes)
        flipped = sh * spz._harmonic_signs(signs)[:, None].float()
        torch.testing.assert_close(
            spherical_harmonics(flipped, directions * signs.float(), 3),
            spherical_harmonics(sh, directions, 3),
        )


def fields(version: int, count: int = 1, degree: int = 1) -> list[bytes]:
    """Attributes of ``count`` equal Gaussians: mean (1, 2, 3) in the file's axes."""
    fixed = b"".join(struct.pack("<i", n << 12)[:3] for n in (1, 2, 3))
    mean = struct.pack("<3e", 1, 2, 3) if version == 1 else fixed
    # Half a turn about x, less a little: x is the largest.
    turn = bytes([255, 128, 128]) if version < 3 else struct.pack("<I", 0 << 30 | 511)
    rows = [mean, bytes([51]), bytes([255, 0, 128]), bytes([160, 144, 176]), turn,
            bytes(range(100, 100 + 3 * ((degree + 1) ** 2 - 1)))]  # fmt: skip
    return [row * count for row in rows]


def legacy(version: int, count: int = 1, degree: int = 1, bits: int = 12, cut: int = 0) -> bytes:
    body = struct.pack("<4sIIBBBB", b"NGSP", version, count, degree, bits, 1, 0)
    body += b"".join(fields(version, 1, degree))
    return gzip.compress(body[: len(body) - cut], mtime=0)


def modern(
    count: int = 1, degree: int = 1, extension: bytes = b"", announce: int = 0, toc: int = 0,
    version: int = 4, pack: Callable[[bytes], bytes] = zstandard.compress,
) -> bytes:  # fmt: skip
    streams = [field for field in fields(3, count, degree) if field]
    packed = [pack(field) for field in streams]
    table = 32 + len(extension) + toc
    header = struct.pack("<4sIIBBBBI12x", b"NGSP", version, count + announce, degree, 12,
                         2 if extension else 0, len(streams), table)  # fmt: skip
    places = b"".join(
        struct.pack("<QQ", len(p), len(s)) for p, s in zip(packed, streams, strict=True)
    )
    return header + extension + places + b"".join(packed)


def check_one(read: Gaussians, version: int) -> None:
    torch.testing.assert_close(read.means, torch.tensor([[1.0, -2, -3]]))
    assert read.opacities.item() == pytest.approx(0.2)
    torch.testing.assert_close(read.scales.log(), torch.tensor([[0.0, -1, 1]]))
    colour = torch.tensor([0.5, -0.5, 128 / 255 - 0.5]) / 0.15
    torch.testing.assert_close(read.sh[0, 0], colour)
    if version < 3:
        torch.testing.assert_close(read.quats.abs()[0, 1], torch.tensor(1.0), rtol=0, atol=1e-4)
    else:  # w is the last field: 511 of 511 is sqrt(1/2), and x makes up the rest
        expected = torch.tensor([[SQRT_HALF, SQRT_HALF, 0, 0]])
        torch.testing.assert_close(read.quats, expected)
    # Coefficients of y, z, x with red, green, blue inside; y and z change their sign.
    raw = (torch.arange(100, 109).reshape(3, 3) - 128) / 128
    torch.testing.assert_close(read.sh[0, 1:], raw * torch.tensor([[-1.0], [-1], [1]]))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_gzip_versions_by_hand(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(legacy(version))
    check_one(read_gaussians(path), version)
    facts = describe_gaussians(path)
    assert facts["version"] == version and facts["antialiased"] is True
    (tmp_path / "nameless").write_bytes(path.read_bytes())
    check_one(read_gaussians(tmp_path / "nameless"), version)


def test_version_4_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(modern())
    check_one(read_gaussians(path), 4)
    path.write_bytes(modern(3, degree=0))
    assert read_gaussians(path).sh.shape == (3, 1, 3)
    path.write_bytes(modern(0, degree=0))
    assert len(read_gaussians(path)) == 0
    # Without sizes in the frames, as streaming writers leave them.
    plain = zstandard.ZstdCompressor(write_content_size=False).compress
    path.write_bytes(modern(pack=plain))
    check_one(read_gaussians(path), 4)


def test_fourth_degree_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(modern(degree=4))
    assert read_gaussians(path).sh.shape == (1, 16, 3)
    facts = describe_gaussians(path)
    assert (facts["sh_degree"], facts["stored_sh_degree"]) == (3, 4)


def test_axes_of_an_extension(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    orbit = struct.pack("<IIfff", 0xADBE0002, 12, 0, 1, 2)
    rub = [1, -2, -3]
    for number, mean, turn in (
        (0, rub, 1),
        (4, rub, 1),
        (6, [1, 2, 3], 1),
        (1, [-1, 2, -3], -1),
        (2, [1, 2, -3], -1),
    ):
        axes = struct.pack("<III", 0xADBE0003, 4, number)
        path.write_bytes(modern(extension=orbit + axes))
        read = read_gaussians(path)
        assert read.means.tolist() == [mean]
        # A quarter turn about x turns the other way when y or z alone is flipped.
        assert read.quats[0, 1].item() == pytest.approx(turn * SQRT_HALF, abs=1e-6)
    path.write_bytes(modern(extension=struct.pack("<III", 0xADBE0003, 4, 9)))
    with pytest.raises(ArchiveError, match=r"coordinate system 9.* - convert"):
        read_gaussians(path)


def bomb() -> bytes:
    """30 MB of zeros behind 30 kB of gzip."""
    count = 500_000
    header = struct.pack("<4sIIBBBB", b"NGSP", 3, count, 3, 12, 0, 0)
    return gzip.compress(header + bytes(65 * count), mtime=0)


def hidden_bomb() -> bytes:
    """Streams that are small in the table and large to whoever unpacks them to the end."""
    return modern(pack=lambda raw: zstandard.compress(raw + bytes(8 << 20)))


BAD = {
    "truncated gzip": (legacy(3)[:-20], "damaged gzip|ends in the"),
    "a body too short": (legacy(3, cut=1), "ends in the harmonics, 1 bytes early"),
    "only a header": (legacy(3, cut=29), "ends in the means"),
    "gzip of text": (gzip.compress(b"hello, this is text of some length"), "no .spz"),
    "gzip of nothing": (gzip.compress(b""), "ends in the header"),
    "flipped body": (legacy(3)[:-20] + b"\xff" + legacy(3)[-19:], "damaged gzip"),
    "flipped checksum": (legacy(3)[:-8] + b"\0\0\0\0" + legacy(3)[-4:], "damaged gzip"),
    "version 5 in gzip": (legacy(5), "spz version 5 - versions 1 to 4"),
    "version 0": (legacy(0), "spz version 0"),
    "degree 5": (legacy(3, degree=5), "degree 5"),
    "31 bits": (legacy(3, bits=31), "31 fractional bits"),
    "four billion": (legacy(3, count=2**32 - 1), "announce 4294967295 Gaussians"),
    "a bomb": (bomb(), "announce 500000 Gaussians"),
    "version 5": (modern(version=5), "spz version 5"),
    "a header of 20 bytes": (modern()[:20], "truncated at 20"),
    "table behind the end": (modern(toc=1 << 20), "a table of streams at byte"),
    "table inside the header": (modern(toc=-8), "a table of streams at byte 24"),
    "another count": (modern(announce=1), "streams of .* expected"),
    "a long extension": (
        modern(extension=struct.pack("<II", 1, 99) + bytes(4)), "extension is longer",
    ),
    "truncated zstd": (modern()[:-1], "truncated at"),
    "no zstd": (modern(pack=lambda raw: bytes(len(raw))), "damaged zstd"),
    "a short stream": (
        modern(pack=lambda raw: zstandard.compress(raw[:-1])), "1 bytes early",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.spz"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=message) as caught:
        read_gaussians(path)
    assert caught.value.where == str(path) and caught.value.hint


def test_no_more_is_unpacked_than_announced(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(hidden_bomb())
    with pytest.raises(ArchiveError, match="more than the 9 announced bytes of means"):
        read_gaussians(path)


def test_records_behind_the_gzip_attributes_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    raw = gzip.decompress(legacy(3)) + struct.pack("<II", 0xADBE0002, 12) + bytes(12)
    path.write_bytes(gzip.compress(raw))
    check_one(read_gaussians(path), 3)
