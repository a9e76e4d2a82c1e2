"""SuperSplat's compressed ``.ply``: by hand, from gsplat, and each kind of damage."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats import describe_gaussians, read_gaussians, write_gaussians
from fit3d_cli.geometry.gaussians import SH_C0, Gaussians

Apart = Callable[[Tensor, Tensor], float]
RANGES = [
    f"{end}_{what}{axis}" for what in ("", "scale_") for end in ("min", "max") for axis in "xyz"
]
COLOURS = [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
LOW_HIGH = [-1.0, -2, -3, 1, 2, 3, -8.0, -8, -8, -2, -2, -2]


def header(
    vertices: int = 1, chunks: int = 1, ranges: list[str] = RANGES, packed: list[str] = PACKED,
    sh: int | None = None, rest: int = 9, kind: str = "binary_little_endian", word: str = "uint",
) -> bytes:  # fmt: skip
    lines = ["ply", f"format {kind} 1.0", f"element chunk {chunks}"]
    lines += [f"property float {name}" for name in ranges]
    lines += [f"element vertex {vertices}", *(f"property {word} {name}" for name in packed)]
    if sh is not None:
        lines += [f"element sh {sh}", *(f"property uchar f_rest_{i}" for i in range(rest))]
    return "\n".join([*lines, "end_header\n"]).encode()


def one(*, colours: list[float] | None = None, words: tuple[int, int, int, int]) -> bytes:
    ranges = [*LOW_HIGH, *(colours or [])]
    return (
        header(ranges=[*RANGES, *(COLOURS if colours else [])])
        + struct.pack(f"<{len(ranges)}f", *ranges)
        + struct.pack("<4I", *words)
    )


def test_words_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"  # the content decides, not the name
    position = 2047 << 21 | 0 << 11 | 1023  # x highest, y lowest, z one half
    # The largest is y (index 2 of wxyz); w = -1/2, x = 0 nearly, z = 1/2.
    half = round((0.5 / 2**0.5 + 0.5) * 1023)
    rotation = 2 << 30 | (1023 - half) << 20 | 512 << 10 | half
    colour = 255 << 24 | 0 << 16 | 51 << 8 | 102
    path.write_bytes(one(words=(position, rotation, position, colour)))
    read = read_gaussians(path)
    torch.testing.assert_close(read.means, torch.tensor([[1, -2, -3 + 6 * 1023 / 2047]]))
    torch.testing.assert_close(read.scales.log(), torch.tensor([[-2, -8, -8 + 6 * 1023 / 2047]]))
    expected = torch.tensor([[-0.5, 0, 0.5**0.5, 0.5]])
    assert (read.quats - expected).abs().max() < 2**0.5 / 1023
    torch.testing.assert_close(read.sh[0, 0] * SH_C0 + 0.5, torch.tensor([1, 0, 0.2]))
    assert read.opacities.item() == pytest.approx(0.4)
    # Newer files have ranges of colours too.
    path.write_bytes(one(colours=[-1, 0, 0, 3, 1, 2], words=(0, rotation, 0, colour)))
    shown = read_gaussians(path).sh[0, 0] * SH_C0 + 0.5
    torch.testing.assert_close(shown, torch.tensor([3, 0, 0.4]))


def test_bytes_of_harmonics(tmp_path: Path) -> None:
    path = tmp_path / "a.compressed.ply"
    body = one(words=(0, 0, 0, 0)).split(b"end_header\n")[1]
    values = [0, 255, 128, 127, 1, 2, 3, 4, 5]
    path.write_bytes(header(sh=1) + body + bytes(values))
    sh = read_gaussians(path).sh
    assert sh.shape == (1, 4, 3)
    # Channel-major: the first three are red's; a byte is the middle of its step of 8/256.
    assert sh[0, 1:, 0].tolist() == [-4, 4, 1 / 64]
    assert sh[0, 1, 1] == -1 / 64
    assert describe_gaussians(path)["sh_degree"] == 1


def test_what_gsplat_exports_is_read(
    tmp_path: Path, make: Callable[..., Gaussians], quats_apart: Apart
) -> None:
    exporter = pytest.importorskip("gsplat.exporter")
    path, made = tmp_path / "gsplat.ply", make(600)
    # On a jittered grid: the nearest mean is the right one, whatever was rounded.
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0), torch.arange(6.0))
    # gsplat leaves out what is transparent.
    opacities = made.opacities.clamp(min=0.05)
    expected = dataclasses.replace(made, means=grid + made.means / 100, opacities=opacities)
    exporter.export_splats(
        means=expected.means, scales=expected.scales.log(), quats=expected.quats,
        opacities=expected.opacities.logit(), sh0=expected.sh[:, :1], shN=expected.sh[:, 1:],
        format="ply_compressed", save_to=str(path),
    )  # fmt: skip
    read = read_gaussians(path)
    order = torch.cdist(expected.means, read.means).argmin(1)  # gsplat sorts by Morton order
    assert len(set(order.tolist())) == len(expected)
    found = read.select(order)
    assert read.sh.shape == expected.sh.shape
    # Half a step of a chunk, which is no larger than the scene: 10 bits, for colours 8.
    span = expected.means.amax(0) - expected.means.amin(0)
    assert ((found.means - expected.means).abs() <= span / 1023 / 2 + 1e-5).all()
    logs = expected.scales.log()
    steps = (logs.amax(0) - logs.amin(0)) / 1023 / 2 + 1e-5
    assert ((found.scales.log() - logs).abs() <= steps).all()
    assert (found.opacities - expected.opacities).abs().max() <= 0.5 / 255 + 1e-6
    assert quats_apart(found.quats, expected.quats) <= 4 * 2**0.5 / 1023
    assert (found.sh[:, 1:] - expected.sh[:, 1:]).abs().max() <= 8 / 256
    colour = expected.sh[:, 0] * SH_C0
    step = float((colour.amax(0) - colour.amin(0)).max()) / 255 / 2
    assert (found.sh[:, 0] - expected.sh[:, 0]).abs().max() * SH_C0 <= step + 1e-5


BODY = one(words=(0, 0, 0, 0)).split(b"end_header\n")[1]
BAD = {
    "no chunks": (header(chunks=0) + BODY, "0 chunks for 1 vertices"),
    "too many vertices": (header(vertices=257) + BODY, "1 chunks for 257"),
    "count of 10^15": (header(vertices=256 * 10**13, chunks=10**13) + BODY, "truncated"),
    "truncated": (header() + BODY[:-1], "truncated"),
    "truncated sh": (header(sh=1) + BODY + bytes(8), "truncated"),
    "other sh count": (header(sh=2) + BODY + bytes(18), "one row of bytes per vertex"),
    "seven f_rest": (header(sh=1, rest=7) + BODY + bytes(7), "7 f_rest"),
    "a word less": (header(packed=PACKED[:3]) + BODY, "without chunks or packed"),
    "half a range": (header(ranges=RANGES[:-1]) + BODY, "chunks lack max_scale_z"),
    "half of the colours": (
        header(ranges=[*RANGES, "min_r"]) + struct.pack("<f", 0) + BODY,
        "chunks lack max_r, min_g",
    ),
    "floats": (header(word="float") + BODY, "not binary uint"),
    "text": (header(kind="ascii") + b"0 " * 16, "not binary uint"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        read_gaussians(path)
    assert message in str(caught.value) and caught.value.hint


def test_ranges_that_are_not_finite_make_invalid_gaussians(tmp_path: Path) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(header() + struct.pack("<f", math.nan) + BODY[4:])
    with pytest.raises(ArchiveError, match="1 of 1 Gaussians"):
        read_gaussians(path)


def test_it_is_not_written(tmp_path: Path, make: Callable[..., Gaussians]) -> None:
    with pytest.raises(ArchiveError, match=r"ends in \.ply, \.splat, \.spz|can be written"):
        write_gaussians(tmp_path / "a.compressed.ply", make(3))
    assert not list(tmp_path.iterdir())
