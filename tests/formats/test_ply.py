"""3DGS ``.ply``: what other programs write is read, what is written others read."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats import describe_gaussians, ply, read_gaussians, write_gaussians
from fit3d_cli.geometry.gaussians import SH_C0, Gaussians

NEEDED = [
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
]  # fmt: skip


def make_gaussians(count: int = 5, coefficients: int = 16) -> Gaussians:
    draw = torch.Generator().manual_seed(1)
    return Gaussians(
        means=torch.randn(count, 3, generator=draw),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1),
        scales=torch.randn(count, 3, generator=draw).exp() * 0.1,
        opacities=torch.rand(count, generator=draw),
        sh=torch.randn(count, coefficients, 3, generator=draw),
    )


def assert_close(a: Gaussians, b: Gaussians) -> None:
    for field in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), msg=field)


def plain(names: list[str], rows: np.ndarray, kind: str = "binary_little_endian") -> bytes:
    """A plain ``.ply`` of float properties."""
    lines = ["ply", f"format {kind} 1.0", "comment by hand", f"element vertex {len(rows)}"]
    lines += [f"property float {name}" for name in names]
    header = "\n".join([*lines, "end_header", ""]).encode()
    if kind == "ascii":
        body = "\n".join(" ".join(repr(float(v)) for v in row) for row in rows).encode()
    else:
        body = rows.astype(">f4" if kind == "binary_big_endian" else "<f4").tobytes()
    return header + body


def rows(count: int, width: int = len(NEEDED)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_round_trip(tmp_path: Path, count: int, coefficients: int) -> None:
    path, again = tmp_path / "a.ply", tmp_path / "b.ply"
    before = make_gaussians(count, coefficients)
    write_gaussians(path, before)
    after = read_gaussians(path)
    assert len(after) == count
    assert_close(after, before)
    write_gaussians(again, after)
    assert again.read_bytes() == path.read_bytes()


def test_layout_is_that_of_3dgs(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    gaussians = make_gaussians(2, 4)
    write_gaussians(path, gaussians)
    header, body = path.read_bytes().split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
    assert names == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2",
        *(f"f_rest_{i}" for i in range(9)),
        "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    table = np.frombuffer(body, dtype="<f4").reshape(2, len(names))
    column = dict(zip(names, table.T, strict=True))
    # f_rest is channel-major: the three coefficients of red first.
    np.testing.assert_allclose(column["f_rest_1"], gaussians.sh[:, 2, 0])
    np.testing.assert_allclose(column["f_rest_3"], gaussians.sh[:, 1, 1])
    np.testing.assert_allclose(column["scale_1"], gaussians.scales[:, 1].log(), rtol=1e-6)
    np.testing.assert_allclose(column["opacity"], gaussians.opacities.logit(), rtol=1e-4)
    np.testing.assert_allclose(column["rot_0"], gaussians.quats[:, 0])


def test_what_gsplat_exports_is_read(tmp_path: Path) -> None:
    exporter = pytest.importorskip("gsplat.exporter")
    path = tmp_path / "gsplat.ply"
    expected = make_gaussians()
    exporter.export_splats(
        means=expected.means,
        scales=expected.scales.log(),
        quats=expected.quats * 3,
        opacities=expected.opacities.logit(),
        sh0=expected.sh[:, :1],
        shN=expected.sh[:, 1:],
        format="ply",
        save_to=str(path),
    )
    assert_close(read_gaussians(path), expected)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_formats_and_orders_without_normals_and_rest(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.ply"
    table = rows(4)
    path.write_bytes(plain(NEEDED, table, kind))
    gaussians = read_gaussians(path)
    column = dict(zip(NEEDED, torch.from_numpy(table).T, strict=True))
    assert gaussians.sh.shape == (4, 1, 3)
    torch.testing.assert_close(gaussians.means[:, 1], column["y"])
    torch.testing.assert_close(gaussians.opacities, column["opacity"].sigmoid())
    torch.testing.assert_close(gaussians.scales[:, 2], column["scale_2"].exp())
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(4))
    shuffled = NEEDED[::-1]
    path.write_bytes(plain(shuffled, table[:, ::-1], kind))
    assert_close(read_gaussians(path), gaussians)


def test_foreign_properties_other_elements_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    layout = [("id", "<u2"), *((name, "<f8") for name in NEEDED)]
    table = rows(3)
    data = np.zeros(3, dtype=layout)
    for i, name in enumerate(NEEDED):
        data[name] = table[:, i]
    lines = [
        "ply", "format binary_little_endian 1.0", "element before 2", "property uchar a",
        "property int b", "element vertex 3", "property ushort id",
        *(f"property double {name}" for name in NEEDED),
        "element face 1", "property list uchar int vertex_indices", "end_header",
    ]  # fmt: skip
    header = "".join(f"{line}\r\n" for line in lines).encode()
    path.write_bytes(header + bytes(10) + data.tobytes() + b"\x03" + bytes(12))
    torch.testing.assert_close(read_gaussians(path).means, torch.from_numpy(table[:, :3]))


def test_colours_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pca.ply"
    rgb = torch.rand(5, 3, generator=torch.Generator().manual_seed(2))
    write_gaussians(path, make_gaussians(), rgb=rgb)
    after = read_gaussians(path)
    assert after.sh_degree == 0
    torch.testing.assert_close(after.sh[:, 0] * SH_C0 + 0.5, rgb)
    torch.testing.assert_close(after.means, make_gaussians().means)


def test_opacities_of_0_and_1_stay_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    opacities = torch.tensor([0.0, 1.0, 0.5])
    write_gaussians(path, dataclasses.replace(make_gaussians(3), opacities=opacities))
    after = read_gaussians(path).opacities
    torch.testing.assert_close(after, opacities, atol=1e-8, rtol=0)
    assert after[1] == 1


def test_invalid_gaussians_are_refused_with_their_count_or_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    table = rows(8)
    table[1, 0] = math.nan
    table[3, NEEDED.index("rot_0") :] = 0
    table[4, NEEDED.index("opacity")] = math.nan
    table[6, NEEDED.index("scale_1")] = 1000
    path.write_bytes(plain(NEEDED, table))
    with pytest.raises(ArchiveError, match=r"4 of 8 Gaussians .* first 1"):
        read_gaussians(path)
    kept = read_gaussians(path, drop_invalid=True)
    assert torch.equal(kept.means, torch.from_numpy(table[[0, 2, 5, 7], :3]))


def header(*lines: str) -> bytes:
    return "\n".join(["ply", *lines, "end_header", ""]).encode()


PROPERTIES = [f"property float {name}" for name in NEEDED]
BINARY = "format binary_little_endian 1.0"
WHOLE = plain(NEEDED, rows(3))
WORDS = plain(NEEDED, rows(3), "ascii")
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a .ply"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "not a .ply"),
    "header without end": (b"ply\n" + b"comment x\n" * 10_000, "no end_header"),
    "truncated": (WHOLE[:-1], "truncated at"),
    "truncated ASCII": (WORDS.rsplit(b" ", 1)[0], "truncated at 41 of 42 numbers"),
    "element twice": (
        header(BINARY, "element vertex 0", *PROPERTIES, "element vertex 1"), "twice",
    ),
    "word among numbers": (WORDS.rsplit(b" ", 1)[0] + b" many", "a word"),
    "endless number": (WORDS.rsplit(b" ", 1)[0] + b" " + b"1" * 1000, "more than 64"),
    "point cloud": (
        plain(["x", "y", "z", "red"], rows(2, 4)),
        "a point cloud, not Gaussians: its vertices lack f_dc_0, f_dc_1, f_dc_2, opacity and 7",
    ),
    "flat Gaussians": (plain([n for n in NEEDED if n != "scale_2"], rows(2, 13)), "lack scale_2"),
    "no vertices": (header(BINARY, "element face 0"), "no vertices"),
    "no format": (header("element vertex 0", *PROPERTIES), "no format"),
    "unknown format": (header("format json 1.0", "element vertex 0", *PROPERTIES), "header line"),
    "unknown type": (header(BINARY, "element vertex 0", "property half x"), "unknown property"),
    "property twice": (header(BINARY, "element vertex 0", *PROPERTIES, PROPERTIES[0]), "twice"),
    "negative count": (header(BINARY, "element vertex -1", *PROPERTIES), "header line"),
    "count of 10^17": (header(BINARY, f"element vertex {10**17}", *PROPERTIES), "truncated"),
    "ASCII count of 10^17": (
        header("format ascii 1.0", f"element vertex {10**17}", *PROPERTIES), "truncated",
    ),
    "list in vertex": (
        header(BINARY, "element vertex 0", *PROPERTIES, "property list uchar int a"), "lists",
    ),
    "seven f_rest": (
        plain([*NEEDED, *(f"f_rest_{i}" for i in range(7))], rows(1, 21)), "7 f_rest",
    ),
    "f_rest with a gap": (
        plain([*NEEDED, *(f"f_rest_{i}" for i in range(1, 10))], rows(1, 23)), "f_rest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        read_gaussians(path)
    assert message in str(caught.value)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_absent_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such file"):
        read_gaussians(tmp_path / "absent.ply")
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_gaussians(tmp_path)


def test_infinite_logits_are_opacities_of_0_and_1(tmp_path: Path) -> None:
    # Converters write them for the bytes 0 and 255 of the compressed formats.
    path = tmp_path / "a.ply"
    table = rows(3)
    table[:2, NEEDED.index("opacity")] = math.inf, -math.inf
    path.write_bytes(plain(NEEDED, table))
    assert read_gaussians(path).opacities[:2].tolist() == [1, 0]


def test_more_rows_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fit3d_cli.formats import ply_header

    path = tmp_path / "a.ply"
    table = rows(50)
    for kind in ("binary_little_endian", "ascii"):
        path.write_bytes(plain(NEEDED, table, kind))
        whole = read_gaussians(path)
        with monkeypatch.context() as patch:
            patch.setattr(ply_header, "BLOCK", 7)
            patch.setattr(ply_header, "_READ_BYTES", 100)
            assert_close(read_gaussians(path), whole)


def test_classes_are_a_compact_property(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    before = make_gaussians(5, 4)
    ply.write(path, before, classes=torch.tensor([0, 255, 3, 3, 1]))
    assert b"property uchar class_id" in path.read_bytes()
    assert path.read_bytes()[-1] == 1
    assert_close(read_gaussians(path), before)
    facts = describe_gaussians(path)
    assert facts["more_properties"] == ["class_id"] and facts["normals"] is True
    assert facts["gaussians"] == 5 and facts["sh_degree"] == 1 and facts["invalid"] == 0


def test_memory_is_about_the_result(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_gaussians(path, make_gaussians(60_000))
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # the high-water mark starts anew
    except OSError:
        pytest.skip("the kernel does not tell the peak of a part")
    before = resident("VmRSS")
    kept = read_gaussians(path)
    assert len(kept) == 60_000
    assert resident("VmHWM") - before < 2 * path.stat().st_size + (8 << 20)


def resident(what: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith(what))
