"""Files of Gaussians in every format, changed where it hurts, and bombs of them."""

from __future__ import annotations

import gzip
import os
import random
import struct
import zlib
from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import torch
import zstandard

from fit3d_cli.formats import write_gaussians
from tests.reliability._seeds import scene
from tests.reliability._tensormutations import scramble

GOLDEN = Path(__file__).parents[1] / "formats" / "golden"
LEGACY, MODERN = struct.Struct("<4sIIBBBB"), struct.Struct("<4sIIBBBBI12s")
NEEDED = [
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
]  # fmt: skip
MIB = 1 << 20
COUNTS = (0, 1, 2, 3, 255, 65536, 10**6, 10**9, 2**31, 2**32 - 1, 10**17, 10**18)
WORDS = ("nan", "inf", "-inf", "1e999", "-1e999", "1e-999", "1_000", "0x10", "abc", "9" * 60,
         "9" * 70, "1" * 5000, "", " ", "\t\t", "\0", "é", "1,5", "--1", "+", ".")  # fmt: skip
LINES = (
    "comment " + "x" * 3000, "obj_info a", "element vertex 1", "element vertex 1000000000",
    "element chunk 1", "element face 3", "element a 1000000000000", "element a -1", "element a 1e3",
    "property list uchar int vertex_indices", "property float x", "property float f_rest_0",
    "property double opacity", "property list float x", "property uchar packed_position",
    "format ascii 1.0", "format binary_big_endian 1.0", "format binary_little_endian 9.9",
    "format utf8 1.0", "end_header", "", "\x0c", "property", "element", "\x00", "é",
)  # fmt: skip
Mutation = Callable[[random.Random], tuple[str, bytes]]


def plain(kind: str, rows: list[list[float]], names: list[str] = NEEDED) -> bytes:
    """A 3DGS ``.ply`` by hand."""
    lines = ["ply", f"format {kind} 1.0", "comment by hand", f"element vertex {len(rows)}"]
    lines += [f"property float {name}" for name in names]
    head = "\n".join([*lines, "end_header", ""]).encode()
    if kind == "ascii":
        return head + "\n".join(" ".join(map(repr, row)) for row in rows).encode()
    order = ">" if kind == "binary_big_endian" else "<"
    return head + b"".join(struct.pack(f"{order}{len(row)}f", *row) for row in rows)


class GaussianFiles:
    """Seeds of all formats, and their mutations.

    Args:
        folder: Where seeds are made.
    """

    def __init__(self, folder: Path) -> None:
        draw = random.Random(0)
        rows = [[draw.gauss(0, 1) for _ in NEEDED] for _ in range(6)]
        made = folder / "a.ply"
        write_gaussians(made, scene(9, coefficients=16).gaussians)
        kinds = ("ascii", "binary_little_endian", "binary_big_endian")
        compressed = (GOLDEN / "tool.compressed.ply").read_bytes()
        self.plys = [*(plain(kind, rows) for kind in kinds), made.read_bytes(), compressed]
        third = gzip.decompress((GOLDEN / "tool-v3.spz").read_bytes())
        self.legacy = [
            third,
            *(legacy(version, degree) for version in (1, 2, 3) for degree in (0, 2)),
        ]
        self.modern = [(GOLDEN / "tool-v4.spz").read_bytes()]
        self.splat = (GOLDEN / "ours.splat").read_bytes()
        kinds_of = [(self.ply, 40), (self.spz_legacy, 25), (self.spz_modern, 20),
                    (self.splats, 10), (self.noise, 5)]  # fmt: skip
        self.kinds: list[Mutation] = [kind for kind, weight in kinds_of for _ in range(weight)]

    def __call__(self, draw: random.Random) -> tuple[str, bytes]:
        """A name and a content."""
        return draw.choice(self.kinds)(draw)

    def ply(self, draw: random.Random) -> tuple[str, bytes]:
        raw = draw.choice(self.plys)
        at = raw.index(b"end_header\n") + len(b"end_header\n")
        head, body = raw[:at], raw[at:]
        if draw.random() < 0.8:
            head = self._header(draw, head)
        if draw.random() < 0.4:
            body = self._body(draw, body, b"ascii" in head[:20])
        return draw.choice(["a.ply", "a.ply", "a"]), head + body

    def _header(self, draw: random.Random, head: bytes) -> bytes:
        if draw.random() < 0.2:
            changed = bytearray(head)
            scramble(draw, changed, draw.randint(1, 3))
            return bytes(changed)
        lines = head.decode().split("\n")
        for _ in range(draw.randint(1, 2)):
            at, what = draw.randrange(len(lines)), draw.randrange(6)
            words = lines[at].split(" ")
            if what == 0:
                lines[at] = draw.choice(LINES)
            elif what == 1:
                lines.insert(at, draw.choice(LINES))
            elif what == 2:
                del lines[at : at + draw.choice([1, 1, 3, 30])]
            elif what == 3:
                words[-1] = str(draw.choice(COUNTS))
                lines[at] = " ".join(words)
            elif what == 4 and len(words) > 1:
                words[1] = draw.choice(["double", "uchar", "uint", "short", "list", "float32", "q"])
                lines[at] = " ".join(words)
            else:
                lines[at], lines[at - 1] = lines[at - 1], lines[at]
            lines = lines or [""]
        return "\n".join(lines).encode()

    def _body(self, draw: random.Random, body: bytes, text: bool) -> bytes:
        if draw.random() < 0.3:
            return body[: draw.randrange(len(body) + 1)]
        if text:
            words = body.split(b" ")
            words[draw.randrange(len(words))] = draw.choice(WORDS).encode()
            return b" ".join(words)
        changed = bytearray(body)
        scramble(draw, changed, draw.randint(1, 4))
        if len(changed) >= 4:
            at = draw.randrange(len(changed) - 3)
            changed[at : at + 4] = struct.pack("<f", draw.choice([nan, inf, -inf, 1e38, 0.0]))
        return bytes(changed)

    def spz_legacy(self, draw: random.Random) -> tuple[str, bytes]:
        raw = bytearray(draw.choice(self.legacy))
        what = draw.randrange(5)
        if what < 2:
            fields = list(LEGACY.unpack_from(raw))
            at = draw.randrange(1, 7)
            fields[at] = draw.choice(COUNTS) % 2**32 if at < 3 else draw.randrange(256)
            raw[: LEGACY.size] = LEGACY.pack(*fields)
        elif what == 2:
            scramble(draw, raw, draw.randint(1, 4))
        elif what == 3:
            raw = raw[: draw.randrange(len(raw))] if draw.random() < 0.7 else raw + bytes(3000)
        packed = bytearray(zlib.compress(raw, 1, wbits=31))
        if what == 4 or draw.random() < 0.1:
            scramble(draw, packed, draw.randint(1, 3))
        return draw.choice(["a.spz", "a.spz", "a"]), bytes(packed)

    def spz_modern(self, draw: random.Random) -> tuple[str, bytes]:
        raw = bytearray(draw.choice(self.modern))
        what = draw.randrange(5)
        table = MODERN.unpack_from(raw)[7]
        if what < 2:
            fields = list(MODERN.unpack_from(raw))
            at = draw.randrange(1, 8)
            fields[at] = draw.choice(COUNTS) % 2**32 if at in (1, 2, 7) else draw.randrange(256)
            raw[: MODERN.size] = MODERN.pack(*fields)
        elif what == 2:
            at = table + 8 * draw.randrange(12)
            raw[at : at + 8] = struct.pack("<Q", draw.choice([*COUNTS, 2**63, 2**64 - 1]))
        elif what == 3:
            scramble(draw, raw, draw.randint(1, 4))
        else:
            raw = raw[: draw.randrange(len(raw))]
        return draw.choice(["a.spz", "a"]), bytes(raw)

    def splats(self, draw: random.Random) -> tuple[str, bytes]:
        return "a.splat", self._body(draw, self.splat, False)

    def noise(self, draw: random.Random) -> tuple[str, bytes]:
        start = draw.choice([b"", b"ply\n", b"NGSP", b"\x1f\x8b\x08", b"ply\nend_header\n"])
        noise = draw.randbytes(draw.choice([0, 1, 15, 16, 31, 32, 64, 500]))
        return draw.choice(["a.ply", "a.spz", "a.splat", "a"]), start + noise


def legacy(version: int, degree: int, count: int = 4, announced: int | None = None) -> bytes:
    """The content of an ``.spz`` of version 1 to 3, before it is packed."""
    width = (6 if version == 1 else 9) + 7 + (3 if version < 3 else 4) + 3 * ((degree + 1) ** 2 - 1)
    head = LEGACY.pack(
        b"NGSP", version, count if announced is None else announced, degree, 12, 0, 0
    )
    return head + bytes(range(1, 1 + width)) * count


def modern(
    count: int, streams: list[tuple[bytes, int]], table: int = 32, extra: bytes = b""
) -> bytes:
    """An ``.spz`` of version 4 from packed streams and the sizes that are announced for them."""
    flags = 2 if extra else 0
    head = MODERN.pack(b"NGSP", 4, count, 0, 12, flags, len(streams), table, bytes(12))
    sizes = b"".join(struct.pack("<QQ", len(packed), size) for packed, size in streams)
    return head + extra + sizes + b"".join(packed for packed, _ in streams)


def bombs() -> dict[str, tuple[str, bytes, int]]:
    """Name, content and the size that the file is stretched to, by what it is."""
    billion = plain("binary_little_endian", []).replace(b"vertex 0", b"vertex 1000000000")
    many = b"".join(b"property float p%d\n" % i for i in range(3000))
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            window_log=27, write_content_size=False
        )
    )

    def wide_frame(size: int) -> bytes:
        packer = wide.compressobj()
        begun = packer.compress(bytes(size)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        return begun + packer.flush()  # in two steps, so that the size is not known in the first

    sizes = [9, 1, 3, 3, 4]
    good = [(zstandard.compress(bytes(n)), n) for n in sizes]
    row = plain("ascii", [[0.5] * len(NEEDED)])
    return {
        "10^9 vertices in a short file": ("a.ply", billion, 0),
        "10^9 vertices of text": ("a.ply", billion.replace(b"binary_little_endian", b"ascii"), 0),
        "10^18 vertices": ("a.ply", billion.replace(b"1000000000", b"9" * 18), 0),
        "a sparse .ply of 8 GiB, cut": ("a.ply", billion, 8 << 30),
        "3,000 properties": ("a.ply", billion.replace(b"end_header", many + b"end_header"), 0),
        "4,000 elements": ("a.ply", b"ply\nformat ascii 1.0\n"
                           + b"".join(b"element e%d 9\n" % i for i in range(4000))
                           + b"end_header\n", 0),
        "a header without an end": ("a.ply", b"ply\n" + b"comment \n" * 300_000, 0),
        "a header of one line": ("a.ply", b"ply\n" + b"x" * 4_000_000, 0),
        "properties without an end": ("a.ply", b"ply\nelement v 1\n" + many * 30, 0),
        "a chunk without properties": ("a.ply", (
            b"ply\nformat binary_little_endian 1.0\nelement chunk 1\nelement vertex 1\n"
            + b"".join(b"property uint packed_%s\n" % w
                       for w in (b"position", b"rotation", b"scale", b"color"))
            + b"end_header\n" + bytes(16)), 0),
        "a number of 10^6 digits": ("a.ply", row[:-3] + b"1" * 1_000_000, 0),
        "text that never comes": ("a.ply", row.replace(b"vertex 1", b"vertex 100000")
                                  + b" " * 3_000_000, 0),
        "62 MiB of zeros in gzip": ("a.spz", gzip.compress(
            LEGACY.pack(b"NGSP", 3, 10**6, 3, 12, 0, 0) + bytes(65 * 10**6)), 0),
        "800,000 Gaussians announced by 40 bytes": ("a.spz", gzip.compress(
            legacy(3, 0, 0, 800_000)), 0),
        "2^32 - 1 Gaussians": ("a.spz", gzip.compress(legacy(3, 0, 1, 2**32 - 1)), 0),
        "4 GiB of gzip behind the end": ("a.spz", gzip.compress(legacy(3, 0))[:-8], 4 << 30),
        "gzip of 30 MiB of nothing": ("a.spz", gzip.compress(bytes(30 << 20)), 0),
        "gzip in a thousand pieces": ("a.spz", gzip.compress(b"") * 20_000, 0),
        "zstd that asks for 128 MiB": ("a.spz", modern(1, [(wide_frame(n), n)
                                                          for n in sizes]), 0),
        "zstd that unpacks to 64 MiB": ("a.spz", modern(1, [
            (zstandard.compress(bytes(64 << 20)), n) for n in sizes]), 0),
        "zstd streams of 2^63 bytes": ("a.spz", modern(1, [(p, 2**63) for p, _ in good]), 0),
        "2^32 - 1 Gaussians in zstd": ("a.spz", modern(2**32 - 1, good), 0),
        "a table at the end of 4 GiB": ("a.spz", modern(1, good, 2**32 - 200, b"\0" * 8), 4 << 30),
        "130,000 extensions": ("a.spz", modern(1, good, MIB + 40, bytes(MIB + 8)), 0),
        "a sparse .splat": ("a.splat", b"", (8 << 30) + 1),
        "an empty file": ("a.splat", b"", 0),
    }  # fmt: skip


def put(path: Path, content: bytes, size: int) -> None:
    """Write a file, and stretch it to a size without taking the room."""
    path.write_bytes(content)
    if size:
        os.truncate(path, size)


def usable(gaussians: object) -> str:
    """What a renderer could not use in Gaussians that were accepted."""
    for name in ("means", "quats", "scales", "opacities", "sh"):
        values: torch.Tensor = getattr(gaussians, name)
        if not bool(values.isfinite().all()):
            return f"{name} that are not finite"
    scales, opacities = (getattr(gaussians, name) for name in ("scales", "opacities"))
    if not bool((scales > 0).all() & (opacities >= 0).all() & (opacities <= 1).all()):
        return "scales or opacities out of range"
    return ""
