"""Tensor files taken apart, changed where it hurts, and put together again."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from math import prod
from typing import Any

ITEM = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2,
        "F32": 4, "F64": 8}  # fmt: skip
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|[\[\]{},:]')
NASTY = (
    "0", "-1", "1", "2", "3", "7", "255", "256", "2147483647", "2147483648", "4294967296",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "1e400", "-1e400", "1e5",
    "1.0", "0.5", "-0", "-0.0", "1e-400", "NaN", "Infinity", "-Infinity", "null", "true", "false",
    "[]", "{}", "[[]]", '[{"a":[]}]', '""', '".."', '"/"', '"../../etc/passwd"', '"\\u0000"',
    '"\\ud800"', '"\\udce9"', '"\\ud83d\\ude00"', '"é 雪"', '"\\n"', '"\\\\"',
    '"' + "a" * 5000 + '"', '"' + '\\"' * 3000,
    "9" * 30, "9" * 5000, "0." + "1" * 3000, "[" * 20 + "]" * 20, "[" * 5000, '{"a":1,"a":2}',
    '"F32"', '"F64"', '"F16"', '"U8"', '"I64"', '"C64"', '"BOOL"', '"x.a"', '"g.means"', "[0,0]",
    "[1,2,3]", "[0]", "[2147483647,2147483647,2147483647]", '"1"', '"inf"', '"nan"', "1,1",
    '"a":1',
    " ", "\t", "01", "+1", ".5", "'a'", "//", "\x00", "\ufeff", "{", "}", "[", "]", ",", ":",
)  # fmt: skip


def _parsed() -> list[Any]:
    found: list[Any] = []
    for text in NASTY:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(text))
    return found


VALUES = _parsed()
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 1e-45, 1e-8, 1e4, 65504.0, 1e30, 3.4e38, -3.4e38, 88.0, -87.0, 1e308,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
LENGTHS = (0, 1, 7, 8, 63, 64, 1 << 20, (1 << 20) + 1, 1 << 24, 1 << 31, 1 << 32, 1 << 63,
           (1 << 64) - 1)  # fmt: skip


class Model:
    """A tensor file: its string table and ``[name, dtype, shape, bytes]`` per tensor."""

    def __init__(self, metadata: dict[str, str], tensors: list[list[Any]]) -> None:
        self.metadata, self.tensors = metadata, tensors

    @classmethod
    def parse(cls, raw: bytes) -> Model:
        (length,) = struct.unpack_from("<Q", raw)
        table = json.loads(raw[8 : 8 + length])
        metadata = table.pop("__metadata__", {})
        data = raw[8 + length :]
        return cls(metadata, [
            [name, entry["dtype"], list(entry["shape"]), data[slice(*entry["data_offsets"])]]
            for name, entry in table.items()
        ])  # fmt: skip

    def copy(self) -> Model:
        return Model(dict(self.metadata), [[n, t, list(s), d] for n, t, s, d in self.tensors])

    def raw(self) -> bytes:
        """The one spelling, whatever the shapes say."""
        self.tensors.sort(key=lambda one: (-ITEM.get(one[1], 1), one[0]))
        table: dict[str, Any] = {}
        if self.metadata:
            table["__metadata__"] = dict(sorted(self.metadata.items()))
        at = 0
        for name, dtype, shape, data in self.tensors:
            offsets = [at, at := at + len(data)]
            table[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        return framed(json.dumps(table, separators=(",", ":"))) + b"".join(
            data for *_, data in self.tensors
        )


def framed(header: str | bytes) -> bytes:
    """A header behind its length, padded."""
    raw = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    raw += b" " * (-(8 + len(raw)) % 64)
    return struct.pack("<Q", len(raw)) + raw


def seal_archive(model: Model) -> None:
    """Checksums of a ``.f3d`` that fit what it holds, as a hostile writer makes them."""
    data = json.loads(model.metadata["f3d_manifest"])
    data["tensors"] = {
        name: {"dtype": dtype, "shape": shape, "sha256": sha256(raw).hexdigest()}
        for name, dtype, shape, raw in model.tensors
    }
    put_manifest(model, json.dumps(data, sort_keys=True, separators=(",", ":")))


def put_manifest(model: Model, text: str) -> None:
    """Another manifest, with its checksum and its version in the table."""
    model.metadata["f3d_manifest"] = text
    model.metadata["f3d_sha256"] = sha256(text.encode("utf-8", "replace")).hexdigest()


class Mutator:
    """Makes mutations of some files.

    Args:
        seeds: The files.
        seal: Puts right checksums into a changed file.
        manifest: Key of the table whose value is JSON and is changed as such; "" for none.
    """

    def __init__(
        self, seeds: list[bytes], seal: Callable[[Model], None], manifest: str = ""
    ) -> None:
        self.seeds, self.seal, self.manifest = seeds, seal, manifest
        self.models = [Model.parse(raw) for raw in seeds]
        self.headers = [header_text(raw) for raw in seeds]
        self.tokens = [spans(text) for text in self.headers]
        texts = [model.metadata.get(manifest, "") for model in self.models]
        self.manifests = [(text, spans(text)) for text in texts]
        kinds: list[tuple[Callable[[random.Random, int], bytes], int]] = [
            (self.changed_tokens, 24), (self.changed_bytes, 10), (self.changed_table, 8),
            (self.changed_manifest if manifest else self.changed_table, 28),
            (self.changed_structure, 16), (self.changed_length, 4), (self.changed_payload, 5),
            (self.sealed_payload, 3), (self.cut_or_joined, 2),
        ]  # fmt: skip
        self.kinds = [kind for kind, weight in kinds for _ in range(weight)]

    def __call__(self, draw: random.Random) -> bytes:
        """One mutation: nine of ten in the header."""
        return draw.choice(self.kinds)(draw, draw.randrange(len(self.seeds)))

    def changed_tokens(self, draw: random.Random, seed: int) -> bytes:
        text = self.headers[seed]
        text = revalued(draw, text) if draw.random() < 0.3 else edit(draw, text, self.tokens[seed])
        return self._behind(draw, seed, text)

    def changed_bytes(self, draw: random.Random, seed: int) -> bytes:
        raw = bytearray(self.headers[seed].encode())
        scramble(draw, raw, draw.randint(1, 3))
        return self._behind(draw, seed, bytes(raw))

    def changed_table(self, draw: random.Random, seed: int) -> bytes:
        model = self.models[seed].copy()
        key = draw.choice([*model.metadata, "new"])
        what = draw.randrange(3)
        if what == 0:
            model.metadata.pop(key, None)
        else:
            value = draw.choice(NASTY).strip('"') if what == 1 else draw.choice(
                ["1.0", "1.9", "2.0", "01.0", "1.٣", "f3d", "0.1.0", "9" * 400, "0" * 64]
            )  # fmt: skip
            model.metadata[key] = value
        if draw.random() < 0.5 and self.manifest in model.metadata:
            put_manifest(model, model.metadata[self.manifest])
        return model.raw()

    def changed_manifest(self, draw: random.Random, seed: int) -> bytes:
        text, tokens = self.manifests[seed]
        model = self.models[seed].copy()
        old = draw.random() < 0.5
        put_manifest(model, edit(draw, text, tokens) if old else revalued(draw, text))
        return model.raw()

    def changed_structure(self, draw: random.Random, seed: int) -> bytes:
        model = self.models[seed].copy()
        for _ in range(draw.choice([1, 1, 2])):
            if model.tensors:
                draw.choice(STRUCTURAL)(draw, model.tensors)
        if draw.random() < 0.8:
            self.seal(model)
        return model.raw()

    def changed_length(self, draw: random.Random, seed: int) -> bytes:
        raw = bytearray(self.seeds[seed])
        (length,) = struct.unpack_from("<Q", raw)
        new = draw.choice([*LENGTHS, length - 1, length + 1, length + 64, len(raw), len(raw) - 8])
        raw[:8] = struct.pack("<Q", new)
        return bytes(raw)

    def changed_payload(self, draw: random.Random, seed: int) -> bytes:
        raw = bytearray(self.seeds[seed])
        start = len(raw) - sum(len(data) for *_, data in self.models[seed].tensors)
        if start < len(raw):
            for _ in range(draw.randint(1, 4)):
                raw[draw.randrange(start, len(raw))] ^= draw.randrange(1, 256)
        return bytes(raw)

    def sealed_payload(self, draw: random.Random, seed: int) -> bytes:
        model = self.models[seed].copy()
        for _ in range(draw.randint(1, 2)):
            nasty_number(draw, draw.choice(model.tensors))
        self.seal(model)
        return model.raw()

    def cut_or_joined(self, draw: random.Random, seed: int) -> bytes:
        raw, other = self.seeds[seed], draw.choice(self.seeds)
        what = draw.randrange(4)
        if what == 0:
            return raw[: draw.randrange(len(raw))]
        if what == 1:
            return raw + draw.randbytes(draw.randrange(1, 100))
        if what == 2:
            return raw[: draw.randrange(len(raw))] + other[draw.randrange(len(other)) :]
        return framed(self.headers[seed]) + other[8 + len(framed(draw.choice(self.headers))) :]

    def _behind(self, draw: random.Random, seed: int, header: str | bytes) -> bytes:
        """A changed header before the old data; its length is right but for one in eight."""
        data = self.seeds[seed][len(framed(self.headers[seed])) :]
        raw = framed(header)
        if draw.random() < 0.125:
            raw = self.seeds[seed][:8] + raw[8:]
        return raw + data


def random_file(draw: random.Random) -> bytes:
    """Noise, and noise that starts like a tensor file."""
    noise = draw.randbytes(draw.choice([0, 1, 7, 8, 9, 40, 300, 3000]))
    what = draw.randrange(3)
    if what == 0:
        return noise
    if what == 1:
        return struct.pack("<Q", max(0, len(noise) - draw.randrange(20))) + b"{" + noise
    tokens = "".join(draw.choice(NASTY) for _ in range(draw.randrange(30)))
    return framed('{"' + tokens) + noise


def header_text(raw: bytes) -> str:
    """The JSON of a file, without padding."""
    return raw[8 : 8 + struct.unpack_from("<Q", raw)[0]].decode().rstrip(" ")


def spans(text: str) -> list[tuple[int, int]]:
    """Where the tokens of a JSON text lie."""
    return [match.span() for match in TOKEN.finditer(text)]


def edit(draw: random.Random, text: str, tokens: list[tuple[int, int]]) -> str:
    """One or two tokens of a JSON text replaced, removed, doubled, swapped, or much longer."""
    for _ in range(draw.choice([1, 1, 1, 2])):
        begin, end = tokens[draw.randrange(len(tokens))]
        what = draw.randrange(8)
        if what < 4:
            new = draw.choice(NASTY)
        elif what == 4:
            new = ""
        elif what == 5:
            stop = tokens[min(len(tokens) - 1, tokens.index((begin, end)) + draw.randrange(12))][1]
            new = text[begin : max(stop, end)] * 2
            end = max(stop, end)
        elif what == 6:
            other = tokens[draw.randrange(len(tokens))]
            new = text[slice(*other)]
        else:
            new = text[begin:end] * draw.choice([3, 100]) if end - begin < 100 else ""
        text = text[:begin] + new + text[end:]
    return text


def revalued(draw: random.Random, text: str) -> str:
    """The same JSON with another value somewhere, of any type, or with a value less."""
    data = json.loads(text)
    for _ in range(draw.choice([1, 1, 2])):
        places = list(_places(data))
        if not places:
            break
        table, key = draw.choice(places)
        what = draw.randrange(6)
        if what == 0:
            del table[key]
        elif what == 1:
            table[key] = draw.choice([[table[key]], {"a": table[key]}, [table[key]] * 2])
        elif what == 2:
            other, at = draw.choice(places)
            table[key] = json.loads(json.dumps(other[at]))
        else:
            table[key] = copy.deepcopy(draw.choice(VALUES))
    return json.dumps(data, sort_keys=draw.random() < 0.5, separators=(",", ":"))


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place that holds a value, the outer ones first."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(items):
        yield data, key
        if isinstance(value, dict | list):
            yield from _places(value)


def scramble(draw: random.Random, raw: bytearray, edits: int) -> None:
    """Flips, copied, removed and inserted runs."""
    for _ in range(edits):
        if not raw:
            return
        at, what = draw.randrange(len(raw)), draw.randrange(5)
        if what == 0:
            raw[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            raw[at] = draw.choice(b'0123456789[]{}",:-.eEFU \\\n\x00\xff')
        elif what == 2:
            raw[at:at] = raw[at : at + draw.randrange(1, 60)]
        elif what == 3:
            del raw[at : at + draw.randrange(1, 12)]
        else:
            raw[at : at + 4] = struct.pack("<I", draw.choice([0, 1, 255, 65536, 2**31, 2**32 - 1]))


def nasty_number(draw: random.Random, tensor: list[Any]) -> None:
    """One number of a tensor becomes one that hurts."""
    _, dtype, _, data = tensor
    size = ITEM.get(dtype, 1)
    if len(data) < size:
        return
    at = draw.randrange(len(data) // size) * size
    code = {"F16": "<e", "F32": "<f", "F64": "<d"}.get(dtype)
    try:
        new = struct.pack(code, draw.choice(FLOATS)) if code else None
    except OverflowError:
        new = None
    if new is None:
        number = draw.choice([0, 1, 2, 255, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
        new = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    tensor[3] = data[:at] + new + data[at + size :]


def _reshaped(draw: random.Random, tensors: list[list[Any]]) -> None:
    one = draw.choice(tensors)
    shape = one[2]
    what = draw.randrange(4)
    if what == 0:
        draw.shuffle(shape)
    elif what == 1:
        shape.insert(draw.randrange(len(shape) + 1), 1)
    elif what == 2 and len(shape) > 1:
        shape[:2] = [shape[0] * shape[1]]
    elif shape:
        shape[draw.randrange(len(shape))] = draw.choice([0, 1, 2**31 - 1, 2**31, 2**63])


def _retyped(draw: random.Random, tensors: list[list[Any]]) -> None:
    one = draw.choice(tensors)
    size = ITEM.get(one[1], 1)
    same = draw.random() < 0.7
    one[1] = draw.choice([t for t, n in ITEM.items() if n == size or not same] + ["F8_E4M3"])


def _resized(draw: random.Random, tensors: list[list[Any]]) -> None:
    one = draw.choice(tensors)
    if not one[2]:
        return
    count = draw.choice([0, 1, 2, one[2][0] + 1, max(0, one[2][0] - 1)])
    group = one[0].split(".")[0] if draw.random() < 0.5 else one[0]
    for other in tensors:  # and with it what shares the dimension
        if other[0].startswith(group) and other[2]:
            size = prod(other[2][1:]) * ITEM.get(other[1], 1) * count
            if size < 1 << 20:
                other[3] = other[3][:size] + bytes(max(0, size - len(other[3])))
                other[2][0] = count


def _dropped(draw: random.Random, tensors: list[list[Any]]) -> None:
    tensors.remove(draw.choice(tensors))


def _added(draw: random.Random, tensors: list[list[Any]]) -> None:
    name = draw.choice(
        ["x.a", "x.", "x.g.means", "g.velocity", "a..b", "../a", "é", "a" * 65, "zz"]
    )
    dtype = draw.choice(list(ITEM))
    count = draw.choice([0, 1, 3])
    tensors.append([name, dtype, [count], bytes(count * ITEM[dtype])])


def _many(draw: random.Random, tensors: list[list[Any]]) -> None:
    for i in range(draw.choice([10, 243, 300])):
        tensors.append([f"x.t{i}", "U8", [0], b""])


def _renamed(draw: random.Random, tensors: list[list[Any]]) -> None:
    one, other = draw.choice(tensors), draw.choice(tensors)
    one[0], other[0] = other[0], one[0]


def _lying(draw: random.Random, tensors: list[list[Any]]) -> None:
    one = draw.choice(tensors)
    one[3] = draw.choice([one[3][:-1], one[3] + b"\0", one[3] * 2, b""])


STRUCTURAL = (_reshaped, _retyped, _resized, _resized, _dropped, _added, _many, _renamed, _lying)
