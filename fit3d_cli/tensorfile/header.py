"""The header of a tensor file: limits, strict parsing, deterministic encoding. Bytes, no I/O."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
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
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


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
    """

    header: int
    tensors: int
    name: str
    rank: int
    string: int
    dtypes: frozenset[str]


ARCHIVE_LIMITS = Limits(
    header=1 << 20, tensors=256, name=r"[A-Za-z0-9_.]{1,64}", rank=4, string=1 << 18,
    dtypes=frozenset({"F16", "BF16", "F32", "F64", "I32", "I64", "U8"}),
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
        canonical: Whether the header is byte for byte what ``encode`` writes.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_bytes: int
    canonical: bool


class MalformedHeader(Exception):
    """What is wrong with a header, without the file name."""


def strict_json(text: str, *, floats: bool) -> Any:
    """Parse JSON without duplicate keys, NaN, or numbers beyond 64 bits.

    Args:
        text: JSON.
        floats: Whether numbers with a fraction are allowed.

    Raises:
        ValueError: Malformed; the message says how.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) != len(items):
            raise ValueError("a key is given twice")
        return table

    def integer(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError("an integer has more than 20 digits")
        return int(digits)

    def fraction(digits: str) -> float:
        value = float(digits)
        if not floats or not math.isfinite(value):
            raise ValueError(f"the number {digits[:20]} is not allowed")
        return value

    depth = 0
    for bracket in re.findall(r"[\[\]{}]", _JSON_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > _JSON_DEPTH:
            raise ValueError(f"nested more than {_JSON_DEPTH} deep")
    return json.loads(
        text,
        object_pairs_hook=pairs,
        parse_int=integer,
        parse_float=fraction,
        parse_constant=fraction,
    )


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
    try:
        table = strict_json(raw.decode("utf-8"), floats=False)
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
    return dict(metadata)


def _parse_entry(name: str, entry: Any, limits: Limits) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise MalformedHeader(f"tensor {name} has other keys than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in limits.dtypes:
        raise MalformedHeader(f"tensor {name} has dtype {str(dtype)[:20]!r}")
    for numbers in (shape, offsets):
        # bool is an int to isinstance; the format knows numbers only.
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
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
