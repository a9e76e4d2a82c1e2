"""Checkpoints that no training wrote."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

PROTO, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """Call something: GLOBAL, its arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(kind: str, key: str, count: int, more: bytes = b"") -> bytes:
    """A persistent id as torch writes it for a storage; before torch 1.6 it had one entry more."""
    number = b"\x8a\x09" + count.to_bytes(9, "little", signed=True)
    parts = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number
    return b"(" + parts + more + b"tQ"


def tensor(
    kind: str, key: str, count: int, shape: bytes, strides: bytes, offset: int = 0,
    more: bytes = b"",
) -> bytes:  # fmt: skip
    """``torch._utils._rebuild_tensor_v2``."""
    start = b"\x8a\x09" + offset.to_bytes(9, "little", signed=True)
    parts = (storage(kind, key, count, more), start, shape, strides, b"\x89")
    return called(
        "torch._utils", "_rebuild_tensor_v2", *parts, called("collections", "OrderedDict")
    )


def sparse(side: int) -> bytes:
    """A vector of that many places of which two are filled."""
    layout = called("torch.serialization", "_get_layout", text("torch.sparse_coo"))
    where = tensor("LongStorage", "0", 2, numbers(1, 2), numbers(2, 1))
    values = tensor("FloatStorage", "1", 2, numbers(2), numbers(1))
    parts = b"(" + where + values + numbers(side) + b"\x88t"
    return called("torch._utils", "_rebuild_sparse_tensor", layout, parts)


def numbers(*values: int) -> bytes:
    """A tuple of whole numbers."""
    return (
        b"(" + b"".join(b"\x8a\x09" + v.to_bytes(9, "little", signed=True) for v in values) + b"t"
    )


def state(value: bytes, key: str = "w") -> bytes:
    """``{key: value}`` as a whole pickle."""
    return PROTO + b"}" + text(key) + value + b"s" + STOP


def zipped(data: bytes, *, method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """The zip that ``torch.save`` makes, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        files = {"archive/data.pkl": data, "archive/version": b"3\n",
                 "archive/byteorder": b"little"} | {k: v for k, v in more.items()}  # fmt: skip
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def legacy(data: bytes) -> bytes:
    """The layout before torch 1.6: magic number, protocol, system, then the data."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return head + pickle.dumps({"little_endian": True}, 2) + data


def _twice() -> bytes:
    buffer = io.BytesIO(zipped(state(text("x"))))
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data.pkl", state(called("os", "system", text("id"))))
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../../escaped"):
            data = called("os", "system", text("id")) + STOP
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _itself() -> bytes:
    """A dict of fifty names for itself: 50**8 paths of eight keys."""
    entries = b"".join(text(f"k{i}") + b"h\x00" for i in range(50))
    return PROTO + b"}q\x00(" + entries + b"u" + STOP


def _many_names() -> bytes:
    entries = b"".join(text(f"k{i}") + b"N" for i in range(300_000))
    return PROTO + b"}(" + entries + b"u" + STOP


def _object_array() -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, w=np.array([Path("x")], dtype=object))
    return buffer.getvalue()


# What takes long to make or to refuse.
LARGE = {"too-many-names", "nested-100000-deep", "zip-bomb", "number-of-a-million-digits",
         "persistent-id-of-a-megabyte", "npz-of-objects", "deep",
         "entries-without-end"}  # fmt: skip


def evil(canary: Path) -> dict[str, Callable[[], bytes]]:
    """Names and makers; whatever runs, makes ``canary``."""
    touch = text(f"touch {canary}")
    code = text(f"open({str(canary)!r}, 'w').close()")
    system = called("os", "system", touch)
    one = b"\x00\x00\x80\x3f" * 4
    entry = "archive/data/0"

    def hidden(inner: bytes) -> bytes:
        return PROTO + b"}" + text("model") + b"}" + text("w") + inner + b"ss" + STOP

    return {
        "os-system": lambda: zipped(state(system)),
        "posix-system": lambda: zipped(state(called("posix", "system", touch))),
        "exec": lambda: zipped(state(called("builtins", "exec", code))),
        "eval-old-name": lambda: zipped(state(called("__builtin__", "eval", code))),
        "subprocess": lambda: zipped(state(called("subprocess", "check_output", touch))),
        "nested-reduce": lambda: zipped(state(called(
            "builtins", "getattr", called("builtins", "__import__", text("os")), text("system")))),
        "stack-global": lambda: zipped(b"\x80\x04" + text("posix") + text("system") + b"\x93("
                                       + touch + b"tR" + STOP),
        "inst": lambda: zipped(PROTO + b"(" + touch + b"ios\nsystem\n" + STOP),
        "obj": lambda: zipped(PROTO + b"(cos\nsystem\n" + touch + b"o" + STOP),
        "newobj": lambda: zipped(PROTO + b"cos\nsystem\n(" + touch + b"t\x81" + STOP),
        "extension": lambda: zipped(PROTO + b"\x82\x01" + STOP),
        "setstate": lambda: zipped(state(
            b"cargparse\nNamespace\n)\x81}" + text("__class__") + b"cos\nsystem\nsb")),
        "namespace-with-code": lambda: zipped(state(
            b"cargparse\nNamespace\n)\x81}" + text("x") + system + b"sb")),
        "deep-in-a-model": lambda: zipped(hidden(system)),
        "torch-load-again": lambda: zipped(state(called("torch.serialization", "load",
                                                        text(str(canary))))),
        "numpy-load": lambda: zipped(state(called("numpy", "load", text(str(canary))))),
        "torch-hub": lambda: zipped(state(called("torch.hub", "load", touch))),
        "dotted-name": lambda: zipped(state(called("torch", "serialization.os.system", touch))),
        "parameter-of-code": lambda: zipped(state(called("torch._utils", "_rebuild_parameter",
                                                         system, b"\x89", b"}"))),
        "legacy-os-system": lambda: legacy(state(system)),
        "legacy-magic-with-code": lambda: PROTO + system + STOP,
        "legacy-huge-storage": lambda: legacy(state(tensor(
            "FloatStorage", "0", 1 << 60, numbers(1 << 60), numbers(1), more=b"N"))
            + pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 60)),
        "legacy-negative-storage": lambda: legacy(state(tensor(
            "FloatStorage", "0", -1, numbers(4), numbers(1), more=b"N")) + pickle.dumps(["0"], 2)),
        "legacy-40-gigabytes": lambda: legacy(state(tensor(
            "FloatStorage", "0", 10 << 30, numbers(4), numbers(1), more=b"N"))
            + pickle.dumps(["0"], 2) + struct.pack("<q", 10 << 30)),
        "tar": _tar,
        "huge-storage": lambda: zipped(state(tensor(
            "FloatStorage", "0", 1 << 60, numbers(1 << 60), numbers(1))), **{entry: one}),
        "storage-beyond-its-bytes": lambda: zipped(state(tensor(
            "FloatStorage", "0", 1 << 20, numbers(1 << 20), numbers(1))), **{entry: one}),
        "shape-beyond-the-storage": lambda: zipped(state(tensor(
            "FloatStorage", "0", 4, numbers(1 << 40), numbers(1))), **{entry: one}),
        "offset-beyond-the-storage": lambda: zipped(state(tensor(
            "FloatStorage", "0", 4, numbers(4), numbers(1), 1 << 40)), **{entry: one}),
        "negative-stride": lambda: zipped(state(tensor(
            "FloatStorage", "0", 4, numbers(4), numbers(-1))), **{entry: one}),
        "one-number-as-a-terabyte": lambda: zipped(state(tensor(
            "FloatStorage", "0", 4, numbers(1 << 20, 1 << 18), numbers(0, 0))), **{entry: one}),
        "sparse-wild-indices": lambda: zipped(state(sparse(16)), **{
            entry: struct.pack("<2q", 1 << 50, -5), "archive/data/1": one[:8]}),
        "sparse-four-terabytes": lambda: zipped(state(sparse(1 << 40)), **{
            entry: struct.pack("<2q", 1, 5), "archive/data/1": one[:8]}),
        "missing-storage": lambda: zipped(state(tensor(
            "FloatStorage", "nowhere", 4, numbers(4), numbers(1)))),
        "storage-name-that-climbs": lambda: zipped(state(tensor(
            "FloatStorage", "../../../../etc/passwd", 4, numbers(4), numbers(1)))),
        "persistent-id-of-a-megabyte": lambda: zipped(PROTO + text("x" * (1 << 20)) + b"Q" + STOP),
        "persistent-id-of-wrong-kind": lambda: zipped(PROTO + b"(K\x01K\x02tQ" + STOP),
        "holds-itself": lambda: zipped(_itself()),
        "too-many-names": lambda: zipped(_many_names()),
        "memo-that-is-not-there": lambda: zipped(PROTO + b"h\xff" + STOP),
        "stack-underflow": lambda: zipped(PROTO + b"R" + STOP),
        "nested-100000-deep": lambda: zipped(PROTO + b"]" * 100_000 + b"a" * 99_999 + STOP),
        "number-of-a-million-digits": lambda: zipped(
            PROTO + b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + STOP),
        "length-beyond-the-file": lambda: zipped(PROTO + b"X\xff\xff\xff\x7f" + STOP),
        "zip-bomb": lambda: zipped(state(text("x")), method=zipfile.ZIP_DEFLATED,
                                   **{entry: bytes(16 << 20)}),
        "zip-name-twice": _twice,
        "zip-absolute-name": lambda: zipped(state(text("x")), **{"/etc/fit3d": b"x"}),
        "zip-climbing-name": lambda: zipped(state(text("x")), **{"archive/../../x": b"x"}),
        "zip-cut": lambda: zipped(state(tensor("FloatStorage", "0", 4, numbers(4), numbers(1))),
                                  **{entry: one})[:-40],
        "zip-without-data": lambda: zipped(b"", **{"archive/other": b"x"}),
        "torchscript": lambda: zipped(state(text("x")), **{
            "archive/constants.pkl": PROTO + b")" + STOP,
            "archive/code/__torch__.py": b"import os"}),
        "npz-of-objects": _object_array,
        "no-pickle": lambda: b"this is no checkpoint at all, only words" * 9,
        "empty": lambda: b"",
        "plain-pickle-of-code": lambda: pickle.PROTO + b"\x04" + system + STOP,
    }  # fmt: skip


def evil_lists(canary: Path) -> dict[str, bytes]:
    """Pickles for the reader of data sets: programs, and data that swell."""
    system = called("os", "system", text(f"touch {canary}"))
    dtype = b"cnumpy\ndtype\n"
    half = b"J" + struct.pack("<i", 2**31 - 1)
    block = text("a" * (1 << 20)) + b"q\x01"
    encode = b"c_codecs\nencode\nq\x02"
    again = b"h\x02h\x01" + text("latin1") + b"\x86R"
    key = b"T" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b"q\x01"
    colliding = b"".join(
        b"\x8a\x10" + (i * ((1 << 61) - 1)).to_bytes(16, "little") + b"N" for i in range(20_000)
    )
    return {
        "code": PROTO + system + STOP,
        "code-in-a-dict": state(system),
        "stack-global": b"\x80\x04" + text("os") + text("system") + b"\x93)R" + STOP,
        "instance": PROTO + b"(ios\nsystem\n" + STOP,
        "persistent": PROTO + text("x") + b"Q" + STOP,
        "extension": PROTO + b"\x82\x01" + STOP,
        "dtype-of-objects": state(dtype + text("O8") + b"\x85R"),
        "dtype-of-two-gigabytes": state(dtype + half + b"\x85R"),
        "byte-order-of-two-gigabytes": state(
            dtype + text("f4") + b"\x85RK\x03" + half + b"\x86b"),
        "one-text-encoded-again-and-again": (
            PROTO + block + encode + b"](" + again * 5000 + b"e" + STOP
        ),
        "one-key-again-and-again": PROTO + key + b"}(" + b"h\x01N" * 5000 + b"u" + STOP,
        "keys-in-one-slot": PROTO + b"}(" + colliding + b"u" + STOP,
        "shape-beyond-its-bytes": PROTO + b"}" + text("x") + b"cnumpy.core.numeric\n_frombuffer\n("
        + b"C\x04abcd" + dtype + text("f4") + b"\x85R" + numbers(1 << 39) + text("C") + b"tRs"
        + STOP,
        "holds-itself": _itself(),
        "deep": PROTO + b"]" * 200_000 + b"a" * 199_999 + STOP,
        "entries-without-end": PROTO + b"]" * 2_000_000 + STOP,
        "name-as-data": PROTO + b"(cnumpy\nndarray\nt" + STOP,
        "array-in-a-tuple": PROTO + b"cnumpy.core.multiarray\n_reconstruct\n)R\x85" + STOP,
        "length-beyond-the-file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + STOP,
        "empty": b"",
    }  # fmt: skip
