"""Archives that are damaged, foreign or too new, given to every verb that reads one."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fit3d_cli import app

SCENE = "out/scenes/room-0.f3d"


@contextmanager
def rewritten(change: Callable[[bytes], bytes]) -> Iterator[None]:
    """The first archive, damaged for the length of a block."""
    whole = Path(SCENE).read_bytes()
    Path(SCENE).write_bytes(change(whole))
    try:
        yield
    finally:
        Path(SCENE).write_bytes(whole)


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


@pytest.mark.parametrize("damage", DAMAGED_ARCHIVES)
@pytest.mark.parametrize("verb", READERS_OF_ARCHIVES)
def test_damaged_archive(refused, untouched: Path, verb: str, damage: str) -> None:
    change, says = DAMAGED_ARCHIVES[damage]
    with rewritten(change):
        refused(READERS_OF_ARCHIVES[verb].split(), 2, "room-0.f3d", says)


@pytest.mark.parametrize("verb", [*READERS_OF_ARCHIVES, "info --verify"])
def test_one_flipped_bit_is_found(refused, untouched: Path, verb: str) -> None:
    line = READERS_OF_ARCHIVES.get(verb, f"info {SCENE} --verify")
    with rewritten(flipped):
        if verb == "info":  # reads no tensor but the flags, and promises no more
            assert app.run([*line.split(), "-q"]) == 0
        else:
            refused(line.split(), 2, "room-0.f3d", "checksum")


@pytest.mark.parametrize("verb", READERS_OF_ARCHIVES)
def test_what_is_no_archive(refused, world: Path, verb: str) -> None:
    line = READERS_OF_ARCHIVES[verb] if verb != "finetune" else f"finetune {SCENE}"
    missing = line.replace(SCENE, "gone.f3d")
    refused(missing.split(), 2, "gone.f3d", "no such file")
    (world / "folder.f3d").mkdir()
    refused(line.replace(SCENE, "folder.f3d").split(), 2, "folder.f3d", "not a file")
    shutil.copy(world / "weights/other.safetensors", world / "foreign.f3d")
    refused(line.replace(SCENE, "foreign.f3d").split(), 2, "foreign.f3d", "not a fit3d scene")
