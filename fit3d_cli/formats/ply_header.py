"""The PLY container (Turk 1994): its header, and the rows of an element, block by block."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fit3d_cli.errors import ArchiveError
from fit3d_cli.formats.base import BLOCK, HEAD_BYTES, damaged

_WORD_BYTES = 64
_READ_BYTES = 1 << 17
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
Columns = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Element:
    """One table of a file.

    Attributes:
        name: Such as ``vertex``.
        count: Rows.
        properties: Name and numpy type of each column; a list has the type ``list``.
    """

    name: str
    count: int
    properties: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for name, _ in self.properties)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a binary file without lists."""
        return sum(np.dtype(kind).itemsize for _, kind in self.properties)


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        encoding: ``ascii``, ``binary_little_endian`` or ``binary_big_endian``.
        elements: Tables in the order of the file.
        start: Offset of the first row.
    """

    encoding: str
    elements: tuple[Element, ...]
    start: int

    def element(self, name: str) -> Element | None:
        """The table of that name, or None."""
        return next((element for element in self.elements if element.name == name), None)


def parse_header(file: BinaryIO, path: Path) -> Header:
    """Read the header of an open file.

    Raises:
        ArchiveError: It is none.
    """
    raw = file.read(HEAD_BYTES)
    if not re.match(rb"ply\r?\n", raw):
        raise ArchiveError("not a .ply file", where=path, hint="pass a 3DGS .ply")
    end = re.search(rb"\nend_header[ \t]*\r?\n", raw)
    if end is None:
        raise damaged(path, f"no end_header in the first {len(raw)} bytes")
    encoding = ""
    # Columns as keys, which are looked up at once: a header may have thousands.
    elements: dict[str, tuple[int, dict[str, str]]] = {}
    columns: dict[str, str] | None = None
    for line in raw[: end.start()].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _ORDERS:
            encoding = words[1]
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"\d{1,18}", words[2]):
            if words[1] in elements:
                raise damaged(path, f"element {words[1][:40]} is given twice")
            columns = {}
            elements[words[1]] = (int(words[2]), columns)
        elif words[0] == "property" and columns is not None and len(words) in (3, 5):
            kind = "list" if words[1] == "list" else _TYPES.get(words[1])
            if kind is None or (kind == "list") != (len(words) == 5):
                raise damaged(path, f"unknown property {line.strip()[:60]!r}")
            if words[-1] in columns:
                raise damaged(path, f"property {words[-1][:40]} is given twice")
            columns[words[-1]] = kind
        else:
            raise damaged(path, f"unknown header line {line.strip()[:60]!r}")
    if not encoding:
        raise damaged(path, "no format line")
    tables = [Element(name, n, tuple(found.items())) for name, (n, found) in elements.items()]
    return Header(encoding, tuple(tables), end.end())


def require_rows(file: BinaryIO, header: Header, element: Element, path: Path) -> None:
    """Check that a file is long enough for an element, before memory is taken for it.

    Raises:
        ArchiveError: It is not, or there are lists before or among the rows.
    """
    size = os.fstat(file.fileno()).st_size
    before = header.elements[: header.elements.index(element)]
    if not element.properties:
        raise damaged(path, f"element {element.name[:40]} has no properties")
    if any(kind == "list" for other in (*before, element) for _, kind in other.properties):
        raise damaged(path, "lists before or among the vertices are not supported")
    if header.encoding == "ascii":
        numbers = sum(other.count * len(other.properties) for other in (*before, element))
        # A number takes a digit and, but for the last, a space.
        if size - header.start < 2 * numbers - 1:
            raise damaged(path, f"truncated, {size} bytes cannot hold {numbers} numbers")
        return
    total = _offset(header, element) + element.count * element.row_bytes
    if size < total:
        raise damaged(path, f"truncated at {size} of {total} bytes")


def blocks(
    file: BinaryIO, header: Header, element: Element, path: Path
) -> Iterator[tuple[slice, Columns]]:
    """The rows of an element, at most ``BLOCK`` at a time: which rows, and their columns.

    Columns have the file's own types, those of an ASCII file float64.

    Raises:
        ArchiveError: As ``require_rows``; or what stands there are no numbers.
    """
    require_rows(file, header, element, path)
    names = element.names
    if header.encoding == "ascii":
        for rows, table in _ascii_blocks(file, header, element, path):
            yield rows, {name: table[:, i] for i, name in enumerate(names)}
        return
    order = _ORDERS[header.encoding]
    layout = np.dtype([(name, order + kind) for name, kind in element.properties])
    file.seek(_offset(header, element))
    for start in range(0, element.count, BLOCK):
        stop = min(start + BLOCK, element.count)
        raw = file.read((stop - start) * layout.itemsize)
        if len(raw) < (stop - start) * layout.itemsize:
            raise damaged(path, "became shorter while it was read")
        table = np.frombuffer(raw, dtype=layout)
        yield slice(start, stop), {name: table[name] for name in names}


def _offset(header: Header, element: Element) -> int:
    before = header.elements[: header.elements.index(element)]
    return header.start + sum(other.count * other.row_bytes for other in before)


def _ascii_blocks(
    file: BinaryIO, header: Header, element: Element, path: Path
) -> Iterator[tuple[slice, np.ndarray[Any, Any]]]:
    width = len(element.properties)
    before = header.elements[: header.elements.index(element)]
    skip = sum(other.count * len(other.properties) for other in before)
    need = skip + element.count * width
    file.seek(header.start)
    start, seen = 0, 0
    held: np.ndarray[Any, Any] = np.empty(0)
    for words in _words(file, path):
        if start == element.count:
            return
        fresh = words[max(0, skip - seen) : need - seen]
        seen += len(words)
        try:
            held = np.concatenate([held, np.array(fresh, dtype="S").astype(np.float64)])
        except ValueError as error:
            raise damaged(path, "a word among the numbers") from error
        rows = len(held) // width if width else 0
        if rows:
            yield slice(start, start + rows), held[: rows * width].reshape(rows, width)
            held = held[rows * width :]
            start += rows
    if seen < need:
        raise damaged(path, f"truncated at {seen} of {need} numbers")


def _words(file: BinaryIO, path: Path) -> Iterator[list[bytes]]:
    """Words of a text file, a megabyte at a time; a word is never cut."""
    tail = b""
    while data := file.read(_READ_BYTES):
        text = tail + data
        words = text.split()
        tail = words.pop() if words and not text[-1:].isspace() else b""
        if len(tail) > _WORD_BYTES or any(len(word) > _WORD_BYTES for word in words):
            raise damaged(path, f"a number of more than {_WORD_BYTES} characters")
        yield words
    if tail:
        yield [tail]
