"""The header of a tensor file: limits, strict parsing, deterministic encoding. Bytes, no I/O."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 64
_JSON_DEPTH = 16
_KEYS = {"dtype", "shape", "data_offsets"}
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# More than 64 bits hold, and a zero that other parsers take for a fraction.
_ODD_INTEGER = re.compile(rb"[0-9]{21}|-0(?![0-9.eE])")
_ESCAPES = 16  # bytes of the largest header per escaped character, which is slow to read
_FRACTION = 40  # characters that are enough for every float64


@dataclass(frozen=True)
class Limits:
    """What a parser accepts; everything is checked before memory is allocated.

    Attributes:
        header: Bytes of the JSON header.
        tensors: Number of tensors.
        name: Pattern that a whole tensor name matches; ``..`` is never allowed.
        rank: Dimensions of a tensor.
        string: Characters of one metadata value.
        dtypes: Accepted dtype names.
        ascii: Whether the JSON must be ASCII, as ``encode`` writes it.
    """

    header: int
    tensors: int
    name: str
    rank: int
    string: int
    dtypes: frozenset[str]
    ascii: bool = False

    @property
    def values(self) -> int:
        """Values in the JSON: what the tensors may need, and as much again for metadata."""
        return (self.rank + 6) * self.tensors + 4096


ARCHIVE_LIMITS = Limits(
    header=1 << 20, tensors=256, name=r"[A-Za-z0-9_.]{1,64}", rank=4, string=1 << 18,
    dtypes=frozenset({"F16", "BF16", "F32", "F64", "I32", "I64", "U8"}), ascii=True,
)  # fmt: skip
MODEL_LIMITS = Limits(
    header=16 << 20, tensors=20_000, name=r"[A-Za-z0-9_./:-]{1,256}", rank=8, string=1 << 18,
    dtypes=frozenset(DTYPES),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        dtype: safetensors name, e.g. ``F32``.
        shape: Sizes of the dimensions.
        begin: First byte, counted from the start of the data.
        end: One past the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        tensors: Name to place, in the order of the data.
        metadata: The string table ``__metadata__``.
        data_start: Offset of the data in the file.
        file_bytes: Size of the file.
        spelling: The bytes before the data.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_bytes: int
    spelling: bytes

    @cached_property
    def canonical(self) -> bool:
        """Whether the header is byte for byte what ``encode`` writes."""
        return encode_header(self.tensors, self.metadata) == self.spelling


class MalformedHeader(Exception):
    """What is wrong with a header, without the file name."""


def strict_json(raw: bytes, *, floats: bool, most: int) -> Any:
    """Parse JSON without duplicate keys, NaN, endless numbers or too many values.

    Depth and size are counted before anything is built: a megabyte of JSON can otherwise become
    a hundred megabytes of objects.

    Args:
        raw: JSON in UTF-8.
        floats: Whether numbers with a fraction are allowed.
        most: Values that it may hold.

    Raises:
        ValueError: Malformed; the message says how.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) != len(items):
            raise ValueError("a key is given twice")
        return table

    def fraction(digits: str) -> float:
        # Not converted before it is measured: a million digits take their time.
        if floats and len(digits) <= _FRACTION and math.isfinite(value := float(digits)):
            return value
        raise ValueError(f"the number {digits[:20]} is not allowed")

    _check_structure(raw, most)
    return json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=pairs,
        parse_float=fraction,
        parse_constant=fraction,
    )


def _check_structure(raw: bytes, most: int) -> None:
    """Count what stands outside strings, in time and memory that are linear in the text."""
    # With escaped backslashes and quotes gone, every other piece between quotes is a string.
    bare = raw.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in raw else raw
    quotes = bare.count(b'"')
    if quotes % 2:
        raise ValueError("a string has no end")
    if quotes > 4 * most:
        raise ValueError(f"more than {most} values")
    outside = b"".join(b"".join(bare.split(b'"')[::2]).split())
    # Deleting takes a third of the time of counting where every other character is a match.
    if len(outside) - len(outside.translate(None, b",[{")) > most:
        raise ValueError(f"more than {most} values")
    depth = 0
    for bracket in outside.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > _JSON_DEPTH:
            raise ValueError(f"nested more than {_JSON_DEPTH} deep")
    if odd := _ODD_INTEGER.search(outside):
        what = "has more than 20 digits" if len(odd[0]) > 2 else "is zero below zero"
        raise ValueError(f"a number {what}")


def parse_header(raw: bytes, limits: Limits) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Parse the JSON of a header.

    Args:
        raw: The header without its length.
        limits: What to accept.

    Returns:
        Tensors in the order of the data, and the metadata.

    Raises:
        MalformedHeader: The message says how, without the file name.
    """
    if raw[:1] != b"{":
        raise MalformedHeader("it does not start with a brace")
    # Refused before it is parsed: ten thousand empty tensors fit into a small header.
    if (count := raw.count(b'"dtype"')) > limits.tensors:
        raise MalformedHeader(f"{count} tensors, at most {limits.tensors}")
    if (count := raw.count(b"\\")) > limits.header // _ESCAPES:
        raise MalformedHeader(f"{count} escaped characters")
    try:
        if limits.ascii and not raw.isascii():
            raise ValueError("it is not ASCII")
        table = strict_json(raw, floats=False, most=limits.values)
    except ValueError as error:
        raise MalformedHeader(str(error)) from error
    metadata = _parse_metadata(table.pop("__metadata__", {}), limits)
    if len(table) > limits.tensors:
        raise MalformedHeader(f"{len(table)} tensors, at most {limits.tensors}")
    pattern = re.compile(limits.name)
    infos: dict[str, TensorInfo] = {}
    for name, entry in table.items():
        if not pattern.fullmatch(name) or ".." in name:
            raise MalformedHeader(f"bad tensor name {name[:80]!r}")
        infos[name] = _parse_entry(name, entry, limits)
    infos = dict(sorted(infos.items(), key=lambda item: (item[1].begin, item[1].end, item[0])))
    offset = 0
    for name, info in infos.items():
        if info.begin != offset:
            raise MalformedHeader(f"a hole or an overlap before tensor {name}")
        offset = info.end
    return infos, metadata


def _parse_metadata(metadata: Any, limits: Limits) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise MalformedHeader("__metadata__ is not a table")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise MalformedHeader(f"metadata {key[:80]!r} is not a string")
        if max(len(key), len(value)) > limits.string:
            raise MalformedHeader(f"metadata {key[:80]!r} exceeds {limits.string} characters")
        try:
            (key + value).encode()
        except UnicodeEncodeError as error:  # half of a character, which JSON can spell
            raise MalformedHeader(f"metadata {key[:80]!r} is no text") from error
    return dict(metadata)


def _parse_entry(name: str, entry: Any, limits: Limits) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise MalformedHeader(f"tensor {name} has other keys than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in limits.dtypes:
        raise MalformedHeader(f"tensor {name} has dtype {str(dtype)[:20]!r}")
    natural = isinstance(shape, list) and isinstance(offsets, list)
    for number in shape + offsets if natural else ():
        # bool is an int to isinstance; the format knows numbers only.
        natural &= type(number) is int and number >= 0
    if not natural:
        raise MalformedHeader(f"tensor {name} has a shape or offsets that are not natural")
    if len(shape) > limits.rank or any(n > 2**31 - 1 for n in shape):
        raise MalformedHeader(f"tensor {name} has shape {str(shape)[:80]}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise MalformedHeader(f"tensor {name} of shape {str(shape)[:80]} does not fill its offsets")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def encode_header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The length and the padded JSON; tensors are listed by alignment, then by name."""
    table: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = sorted(infos.items(), key=lambda kv: (-DTYPES[kv[1].dtype].itemsize, kv[0]))
    for name, info in order:
        table[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.begin, info.end],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
