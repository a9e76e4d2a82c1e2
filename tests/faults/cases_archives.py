"""Archives that are damaged, foreign or too new, given to every verb that reads one."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from tests.faults.case import Case

SCENE = "out/scenes/room-0.f3d"


def header(data: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with a change in its header, whose length stays true."""
    (length,) = struct.unpack("<Q", data[:8])
    text = data[8 : 8 + length]
    assert old in text
    text = text.replace(old, new)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def newer(data: bytes) -> bytes:
    data = header(data, b'"f3d_version":"1.0"', b'"f3d_version":"9.0"')
    return header(data, b'"f3d_min_reader":"0.1.0"', b'"f3d_min_reader":"7.7.0"')


def flipped(data: bytes) -> bytes:
    """One bit of the last tensor changed: only the checksum can tell."""
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


DAMAGED_ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "an empty file"),
    "cut in the header": (lambda d: d[:100], "truncated"),
    "cut in a tensor": (lambda d: d[:-50], "truncated"),
    "longer": (lambda d: d + b"x", "1 bytes after"),
    "text": (lambda d: b"hello, this is a text", "not a safetensors file"),
    "manifest changed": (lambda d: header(d, b"room-0", b"room-9"), "manifest"),
    "newer": (newer, "install fit3d 7.7.0 or newer"),
}
READERS_OF_ARCHIVES = {
    "render": f"render {SCENE}",
    "finetune": "finetune --name fresh",
    "info": f"info {SCENE}",
    "export": f"export {SCENE} --out new.ply",
    "viz": f"viz {SCENE}",
    "compare": f"compare {SCENE} --tuned tuned",
}


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """The first archive, damaged."""
    return lambda root: (root / SCENE).write_bytes(change((root / SCENE).read_bytes()))


def put(name: str) -> Callable[[Path], object]:
    """A folder, or weights, under an archive's name."""

    def damage(root: Path) -> None:
        if name == "folder.f3d":
            (root / name).mkdir()
        elif name == "foreign.f3d":
            shutil.copy(root / "weights/other.safetensors", root / name)

    return damage


NO_ARCHIVES = {"gone.f3d": "no such file", "folder.f3d": "not a file",
               "foreign.f3d": "not a fit3d scene"}  # fmt: skip
CASES: dict[str, Case] = {
    f"{verb} an archive, {damage}": Case(line, "room-0.f3d", says, damage=rewritten(change))
    for verb, line in READERS_OF_ARCHIVES.items()
    for damage, (change, says) in DAMAGED_ARCHIVES.items()
} | {
    f"{verb} an archive, a bit flipped": Case(
        line, "room-0.f3d", "checksum", damage=rewritten(flipped))
    for verb, line in (READERS_OF_ARCHIVES | {"verify": f"info {SCENE} --verify"}).items()
    if verb != "info"  # which reads no tensor but the flags, and promises no more
} | {
    f"{verb} {name}": Case(
        line.replace(SCENE, name) if verb != "finetune" else f"finetune {name}", name, says,
        damage=put(name))
    for verb, line in READERS_OF_ARCHIVES.items()
    for name, says in NO_ARCHIVES.items()
}  # fmt: skip
