"""Small files that ask for much, and files that lie."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability._seeds import archives
from tests.reliability._tensormutations import Model, framed, put_manifest, seal_archive

MIB = 1 << 20
Bomb = Callable[[Path], None]


def entry(dtype: str, shape: list[int], begin: int, end: int) -> str:
    """The JSON of a tensor's place."""
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})


def of(header: str | bytes, data: bytes = b"") -> Bomb:
    """A file with that header."""
    return lambda path: _put(path, framed(header) + data)


def raw(content: bytes) -> Bomb:
    """A file with that content."""
    return lambda path: _put(path, content)


def sparse(start: bytes, size: int) -> Bomb:
    """A file that is said to be large and takes no room."""

    def make(path: Path) -> None:
        _put(path, start)
        os.truncate(path, size)

    return make


def bombs(folder: Path) -> dict[str, Bomb]:
    """All of them by name; each is to be refused."""
    plain = archives(folder)[0]
    empty = entry("U8", [0], 0, 0)
    one = entry("U8", [1], 0, 1)
    quote = '\\"'

    def forged(change: Callable[[Model], object]) -> Bomb:
        model = Model.parse(plain)
        change(model)
        seal_archive(model)
        return raw(model.raw())

    def manifest(change: Callable[[dict[str, Any]], object], text: str = "") -> Bomb:
        model = Model.parse(plain)
        data = json.loads(model.metadata["f3d_manifest"])
        change(data)
        put_manifest(model, text or json.dumps(data, sort_keys=True, separators=(",", ":")))
        return raw(model.raw())

    def put(name: str, code: str, at: int, *values: float) -> Callable[[Model], None]:
        def change(model: Model) -> None:
            tensor = next(t for t in model.tensors if t[0] == name)
            new = struct.pack(f"<{len(values)}{code}", *values)
            size = struct.calcsize(code)
            tensor[3] = tensor[3][: at * size] + new + tensor[3][at * size + len(new) :]

        return change

    def shaped(name: str, *shape: int) -> Callable[[Model], None]:
        return lambda model: next(t for t in model.tensors if t[0] == name).__setitem__(
            2, list(shape)
        )

    def nothing(data: dict[str, Any]) -> None:
        pass

    claim = (2**31 - 1) * 12
    sparse_header = framed("{" + f'"g.means":{entry("F32", [2**31 - 1, 3], 0, claim)}' + "}")
    inside = '{"a":' * 17 + "1" + "}" * 17
    names = ("../a", "..", "/etc/passwd", "a\\u0000", "a\\nb", "é", "a b")
    bad_names = {f"a tensor named {n}": of(f'{{"{n}":{one}}}', b"1") for n in names}
    eight, late = entry("U8", [8], 0, 8), entry("U8", [8], 4, 12)
    return {
        "an empty file": raw(b""),
        "seven bytes": raw(b"\0" * 7),
        "a header of 2^63 bytes": raw(struct.pack("<Q", 1 << 63) + b"{}"),
        "a header of 2^64 - 1 bytes": raw(b"\xff" * 8 + b"{}"),
        "a header of 4 GiB in a sparse file": sparse(struct.pack("<Q", 4 << 30) + b"{", 6 << 30),
        "2^31 Gaussians in a sparse file": sparse(sparse_header, len(sparse_header) + claim),
        "2^31 Gaussians in a small file": raw(sparse_header),
        "16 GiB behind an archive": sparse(plain, 16 << 30),
        "a sparse file of zeros": sparse(b"", 8 << 30),
        "10^5 empty tensors": of("{" + ",".join(f'"{i}":{empty}' for i in range(100_000)) + "}"),
        "15,000 empty tensors in 1 MiB": of(
            "{" + ",".join(f'"{i}":{empty}' for i in range(15_000)) + "}"),
        "257 empty tensors": of("{" + ",".join(f'"{i}":{empty}' for i in range(257)) + "}"),
        "keys that are spelt otherwise": of(
            "{" + ",".join(f'"{i}":{{"\\u0064type":0}}' for i in range(40_000)) + "}"),
        "350,000 empty lists": of('{"a":[' + "[]," * 349_000 + "[]]}"),
        "350,000 empty tables": of('{"a":[' + "{}," * 349_000 + "{}]}"),
        "500,000 numbers": of('{"a":[' + "0," * 500_000 + "0]}"),
        "350,000 empty strings": of('{"a":[' + '"",' * 349_000 + '""]}'),
        "brackets 500,000 deep": of('{"a":' + "[" * 500_000 + "]" * 500_000 + "}"),
        "tables 150,000 deep": of('{"a":' * 150_000 + "1" + "}" * 150_000),
        "500,000 quotes without an end": of('{"' + quote * 500_000),
        "a string of 10^6 backslashes": of('{"' + "\\" * 1_000_000),
        "a string of 10^6 characters": of('{"__metadata__":{"a":"' + "x" * 1_000_000 + '"}}'),
        "a key of 10^6 characters": of('{"' + "x" * 1_000_000 + f'":{one}}}', b"1"),
        "10^6 escaped characters": of('{"__metadata__":{"a":"' + "\\u0041" * 170_000 + '"}}'),
        "a number of 10^5 digits": of('{"a":' + "9" * 100_000 + "}"),
        "a fraction of 10^6 digits": of('{"a":0.' + "1" * 1_000_000 + "}"),
        "a megabyte of spaces": of("{" + " " * (MIB - 100) + "}"),
        "1e400": of('{"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,0]}}'),
        "NaN as a size": of('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
        "Infinity as an offset": of('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,Infinity]}}'),
        "a shape that overflows": of(f'{{"a":{entry("F64", [2**31 - 1] * 4, 0, 8)}}}', bytes(8)),
        "a product that wraps to 0": of(f'{{"a":{entry("U8", [2**30, 2**30, 16], 0, 0)}}}'),
        "a dimension of 2^31": of(f'{{"a":{entry("U8", [2**31, 0], 0, 0)}}}'),
        "1,000 dimensions": of(f'{{"a":{entry("U8", [1] * 1000, 0, 1)}}}', b"1"),
        "one name twice": of(f'{{"a":{one},"a":{one}}}', b"1"),
        "one key twice": of('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "tensors that overlap": of(f'{{"a":{eight},"b":{late}}}', bytes(12)),
        "a hole": of(f'{{"a":{one},"b":{entry("U8", [1], 9, 10)}}}', bytes(10)),
        "offsets that go back": of(f'{{"a":{entry("U8", [1], 1, 0)}}}', b"1"),
        "trailing bytes": raw(plain + b"\0"),
        "a byte too few": raw(plain[:-1]),
        "half a character": of('{"__metadata__":{"a":"\\ud800"}}'),
        "a byte order mark": raw(struct.pack("<Q", 5) + b"\xef\xbb\xbf{}"),
        "emoji": of('{"__metadata__":{"a":"' + "\U0001f600" * 260_000 + '"}}'),
        "a pickle": raw(b"\x80\x04\x95" + bytes(100)),
        "a zip file": raw(b"PK\x03\x04" + bytes(100)),
        **bad_names,
        "cameras that are NaN": forged(put("cam.viewmats", "d", 3, math.nan)),
        "cameras of 2^31 pixels": forged(put("cam.sizes", "i", 0, 2**31 - 1, 2**31 - 1)),
        "names at wild offsets": forged(put("cam.names_offsets", "q", 1, 2**62)),
        "names that go back": forged(put("cam.names_offsets", "q", 1, 14, 7)),
        "names at negative offsets": forged(put("cam.names_offsets", "q", 0, -(2**63))),
        "a decoder that does not fit": forged(shaped("dec.weight", 4, 5, 3, 3)),
        "a decoder turned over": forged(shaped("dec.weight", 3, 3, 4, 5)),
        "a manifest of 2^31 Gaussians": manifest(
            lambda data: data["tensors"]["g.means"].update(shape=[2**31, 3])),
        "a manifest that lists 5,000 tensors": manifest(lambda data: data.update(
            tensors={str(i): data["tensors"]["g.sh"] for i in range(1900)})),
        "a manifest of 130,000 numbers": manifest(nothing, '{"a":[' + "0," * 130_000 + "0]}"),
        "a manifest of 8,000 fractions": manifest(nothing, '{"a":[' + "0.5," * 8_000 + "0.5]}"),
        "a manifest of 8,000 tables": manifest(nothing, '{"a":[' + "{}," * 4_000 + "{}]}"),
        "a manifest of quotes": manifest(nothing, '{"' + quote * 130_000),
        "a manifest of 200,000 characters": manifest(lambda data: data.update(name="x" * 200_000)),
        "a manifest 17 deep": manifest(nothing, inside),
        "metrics that are words": manifest(lambda data: data["metrics"].update(psnr="inf")),
        "half a character in a manifest": manifest(
            nothing, '{"provenance":{"a":"\\ud800"},"metrics":{}}'),
        "a scene named ../x": manifest(lambda data: data.update(name="../x")),
        "a backbone of -1 channels": manifest(lambda data: data["source"].update(dim=-1)),
        "a patch of 0 pixels": manifest(lambda data: data["source"].update(patch_size=0)),
    }  # fmt: skip


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
