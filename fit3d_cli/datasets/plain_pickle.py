"""Arrays, texts and containers out of a pickle file, without running anything in it.

Unpickling calls what the file names, so a pickle from the internet is a program. This reader is
no unpickler: it walks the opcodes (documented in Python's ``pickletools``), keeps the names of
what would be called as plain text, and itself builds the few things that data consist of: numbers,
texts, bytes, lists, tuples, dicts, numpy arrays of plain numbers. Any other name or opcode is
refused. Nothing is imported, looked up or called on behalf of the file, so there is no allow-list
of callables that could be abused.

Bytes stay where they are: the file is mapped and arrays are read-only views of it. Work is bounded
by the size of the file and by the number of opcodes: what an opcode may copy is bounded too, since
a file can name the same long text a million times.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fit3d_cli.errors import DatasetError

MAX_BYTES = 16 << 30
MAX_OPCODES = 1_000_000
_WORD = 32  # bytes of a dtype's name or byte order
_KEY = 4096  # bytes of a key
_SMALL = 1 << 61  # whole numbers that are their own hash: no crowd of keys in one slot
_NUMBERS = re.compile(r"[<>|=]?(b1|[ui][1248]|f[248])")
_MODULES = ("numpy.core.", "numpy._core.")  # before and since numpy 2
_MARK = object()


class _Name(str):
    """A dotted name in the file; never resolved."""


class _Kind:
    """A numpy dtype on its way: the letter first, the byte order with its state."""

    def __init__(self, code: str) -> None:
        self.code = code


class _Array:
    """A numpy array on its way: announced first, filled by its state."""

    value: np.ndarray[Any, Any] | None = None


def read_plain_pickle(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The data of a pickle file of protocol 2 (Python 2.3 and later) to 5.

    Args:
        path: The file.
        max_bytes: Larger files are refused.

    Returns:
        Numbers, ``str``, ``bytes``-like, ``list``, ``tuple``, ``dict``, None and read-only
        ``numpy.ndarray`` of bool, integer or float type, nested as in the file (which may share
        and even contain its own containers: do not walk it blindly).

    Raises:
        DatasetError: Missing, too large, damaged, or it holds more than plain data.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DatasetError("not a file", where=path, hint="use the published file")
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > max_bytes:
                raise DatasetError(
                    f"{size} bytes, the limit is {max_bytes}", where=path,
                    hint="use the published file",
                )  # fmt: skip
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read ({error})", where=path, hint="check the file and its permissions"
        ) from error
    try:
        return _Reader(memoryview(content), path).run()
    except (IndexError, struct.error, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"damaged ({type(error).__name__})", where=path, hint="download it again"
        ) from error


class _Reader:
    """The stack machine."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0  # bytes that were copied out of texts

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = bytes(self.take(1))
            if code == b".":
                result = self.stack.pop()
                return self.filled(result)
            handler = _HANDLERS.get(code)
            if handler is None:
                self.refuse(f"opcode {code!r}")
            handler(self)
        return self.refuse(f"more than {MAX_OPCODES} entries")

    def refuse(self, what: str) -> NoReturn:
        raise DatasetError(
            f"holds more than plain data ({what[:80]}), refused unread", where=self.path,
            hint="use the published file; never load it with pickle",
        )  # fmt: skip

    def take(self, count: int) -> memoryview:
        if count < 0 or self.at + count > len(self.data):
            raise ValueError("ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        for length in range(200):
            if self.data[self.at + length] == 10:
                text = bytes(self.take(length)).decode("ascii")
                self.take(1)
                return text
        raise ValueError("no name of sensible length")

    def since_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise ValueError("no mark")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError("no such memo")
        self.push(self.memo[key])

    def name(self, module: Any, attribute: Any) -> None:
        full = f"{module}.{attribute}"
        for prefix in _MODULES:
            full = full.replace(prefix, "numpy.core.", 1) if full.startswith(prefix) else full
        if full not in _MAKERS and full != "numpy.ndarray":
            self.refuse(full)
        self.push(_Name(full))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("not a list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is memoryview and len(key) <= _KEY:
                key = bytes(key)
            if type(key) is int:
                sensible = abs(key) < _SMALL
            else:
                sensible = type(key) in (str, bytes) and len(key) <= _KEY
            if not sensible:
                raise ValueError("not a key")
            target[key] = value

    def reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not _Name or type(arguments) is not tuple or called not in _MAKERS:
            self.refuse("a call of something that is no data")
        if called == "_codecs.encode":
            self.encoded += len(arguments[0])
            if self.encoded > len(self.data):
                raise ValueError("the same text again and again")
        self.push(_MAKERS[called](*arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(state) is not tuple:
            self.refuse("an object with a state of its own")
        if type(target) is _Kind:
            order = _word(state[1])
            if order not in ("<", ">", "|", "="):
                raise ValueError("not a byte order")
            target.code = order + target.code.lstrip("<>|=")
        elif type(target) is _Array:
            _, shape, kind, fortran, data = state
            target.value = _array(data, kind, shape, "F" if fortran else "C")
        else:
            self.refuse("an object with a state of its own")

    def filled(self, result: Any) -> Any:
        """Put finished arrays in their places; every container is visited once."""
        waiting, seen = [result], set()
        while waiting:
            box = waiting.pop()
            if type(box) in (_Name, _Kind) or box is _MARK:
                self.refuse("a name or a type as data")
            if type(box) not in (list, dict, tuple) or id(box) in seen:
                continue
            seen.add(id(box))
            if type(box) is tuple:
                if any(type(item) is _Array for item in box):
                    self.refuse("an array in a tuple")
                waiting.extend(box)
                continue
            for key, value in list(enumerate(box) if type(box) is list else box.items()):
                if type(value) is _Array:
                    box[key] = self.finished(value)
                else:
                    waiting.append(value)
        return self.finished(result) if type(result) is _Array else result

    def finished(self, array: _Array) -> np.ndarray[Any, Any]:
        if array.value is None:
            raise ValueError("an array without values")
        return array.value


def _word(text: Any) -> str:
    """A short word, which protocol 2 may give as bytes. A number is none: ``bytes(10**10)``."""
    if type(text) not in (str, memoryview, bytes) or len(text) > _WORD:
        raise ValueError("not a short word")
    return text if type(text) is str else bytes(text).decode("ascii")


def _kind(code: Any, *_: Any) -> _Kind:
    code = _word(code)
    if not _NUMBERS.fullmatch(code):
        raise ValueError("not a type of plain numbers")
    return _Kind(code)


def _array(data: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray[Any, Any]:
    if isinstance(data, _Array):  # numpy wraps the buffer of a non-contiguous array
        raise ValueError("an array of an array")
    if type(kind) is not _Kind or not _NUMBERS.fullmatch(kind.code) or type(shape) is not tuple:
        raise ValueError("not an array of plain numbers")
    if not all(type(side) is int and 0 <= side < 1 << 40 for side in shape) or len(shape) > 8:
        raise ValueError("not a shape")
    dtype = np.dtype(kind.code)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("bytes do not fill the shape")
    array = np.frombuffer(data, dtype) if len(data) else np.zeros(0, dtype)
    array = array.reshape(shape, order="F" if order == "F" else "C")
    array.flags.writeable = False
    return array


def _encode(text: Any, codec: Any, *_: Any) -> bytes:
    """How Python 3 writes bytes into protocol 2."""
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise ValueError("not bytes as text")
    return text.encode("latin-1")


_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _kind,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.numeric._frombuffer": _array,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # empty bytes in protocol 2
}


def _sized(layout: str, decode: bool) -> Callable[[_Reader], None]:
    def handler(reader: _Reader) -> None:
        chunk = reader.take(reader.number(layout))
        reader.push(bytes(chunk).decode("utf-8", "surrogatepass") if decode else chunk)

    return handler


def _constant(make: Callable[[], Any]) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(make())


def _scalar(layout: str) -> Callable[[_Reader], None]:
    return lambda reader: reader.push(reader.number(layout))


def _last(count: int) -> Callable[[_Reader], None]:
    def handler(reader: _Reader) -> None:
        if len(reader.stack) < count:
            raise ValueError("an empty stack")
        items = tuple(reader.stack[-count:])
        del reader.stack[-count:]
        reader.push(items)

    return handler


def _set_one(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.set_items([key, value])


def _stacked_name(reader: _Reader) -> None:
    attribute, module = reader.stack.pop(), reader.stack.pop()
    reader.name(module, attribute)


_HANDLERS: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": lambda r: r.take(1),  # PROTO
    b"\x95": lambda r: r.take(8),  # FRAME
    b"(": _constant(lambda: _MARK),
    b"0": lambda r: r.stack.pop(),
    b"N": _constant(lambda: None),
    b"\x88": _constant(lambda: True),
    b"\x89": _constant(lambda: False),
    b"J": _scalar("<i"),
    b"K": _scalar("<B"),
    b"M": _scalar("<H"),
    b"G": _scalar(">d"),
    b"\x8a": lambda r: r.push(int.from_bytes(r.take(r.number("<B")), "little", signed=True)),
    b"\x8c": _sized("<B", True),
    b"X": _sized("<I", True),
    b"\x8d": _sized("<Q", True),
    b"C": _sized("<B", False),
    b"B": _sized("<I", False),
    b"\x8e": _sized("<Q", False),
    b"\x96": _sized("<Q", False),  # BYTEARRAY8
    b"U": _sized("<B", False),  # str of Python 2
    b"T": _sized("<i", False),
    b"]": _constant(list),
    b"}": _constant(dict),
    b")": _constant(tuple),
    b"t": lambda r: r.push(tuple(r.since_mark())),
    b"\x85": _last(1),
    b"\x86": _last(2),
    b"\x87": _last(3),
    b"a": lambda r: r.append([r.stack.pop()]),
    b"e": lambda r: r.append(r.since_mark()),
    b"s": _set_one,
    b"u": lambda r: r.set_items(r.since_mark()),
    b"q": lambda r: r.remember(r.number("<B")),
    b"r": lambda r: r.remember(r.number("<I")),
    b"\x94": lambda r: r.remember(len(r.memo)),  # MEMOIZE
    b"h": lambda r: r.recall(r.number("<B")),
    b"j": lambda r: r.recall(r.number("<I")),
    b"c": lambda r: r.name(r.line(), r.line()),
    b"\x93": _stacked_name,
    b"R": lambda r: r.reduce(),
    b"b": lambda r: r.build(),
}
