"""Ways in which a checkpoint can be damaged."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from fit3d_cli.tensorfile import read_sealed, write_sealed

Damage = Callable[[Path], object]


def damages(draw: random.Random, foreign: bytes) -> Iterator[tuple[str, Damage]]:
    """Names and functions that spoil a whole file, some fifty of them.

    Args:
        draw: Decides positions and nonsense.
        foreign: A whole checkpoint of another run.
    """
    yield "of another run", lambda path: path.write_bytes(foreign)
    yield "empty", lambda path: path.write_bytes(b"")
    yield "a folder", _folder
    yield "a folder with files", lambda path: (_folder(path), (path / "a").write_text("a"))
    yield "zeros", lambda path: path.write_bytes(bytes(path.stat().st_size))
    yield "a file of text", lambda path: path.write_text("step 56\n" * 40)
    yield "a dangling link", lambda path: _link(path, "nowhere")
    yield "a link to itself", lambda path: _link(path, path.name)
    yield "a link to a device", lambda path: _link(path, "/dev/zero")
    yield "a pipe", lambda path: (path.unlink(), os.mkfifo(path))
    yield "one byte too many", lambda path: path.write_bytes(path.read_bytes() + b"\0")
    yield "twice", lambda path: path.write_bytes(path.read_bytes() * 2)
    for length in (2**63, 2**40, 0):
        yield f"a header of {length} bytes", _patch(0, struct.pack("<Q", length))
    for what in ("p.0", "m.0", "history", "p.means", "d.grad2d", "p.quats"):
        yield f"sealed without {what}", lambda path, what=what: _without(path, what)
    for share in (0.1, 0.5, 0.9):
        yield f"zeros from {share:.0%} on", lambda path, share=share: _zero_from(path, share)
    for size in (1, 7, 8, 9, 100):
        yield f"cut to {size} bytes", lambda path, size=size: os.truncate(path, size)
    for lacking in (1, 64, 4096):
        yield f"cut by {lacking} bytes", lambda path, n=lacking: _cut(path, n)
    for _ in range(6):
        share = draw.random()
        yield (
            f"cut to {share:.2%}",
            lambda path, s=share: os.truncate(path, int(path.stat().st_size * s)),
        )
    for _ in range(8):
        yield "a flipped bit", _flip(draw.random(), 1 << draw.randrange(8))
    for _ in range(4):
        yield "a flipped bit of the header", _flip(draw.random() * 0.01, 1 << draw.randrange(8))
    for _ in range(3):
        noise = draw.randbytes(512)
        yield "noise in the header", _patch(8, noise)
        yield "noise", lambda path, noise=noise: path.write_bytes(noise * 20)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _cut(path: Path, lacking: int) -> None:
    os.truncate(path, max(0, path.stat().st_size - lacking))


def _zero_from(path: Path, share: float) -> None:
    data = path.read_bytes()
    kept = int(len(data) * share)
    path.write_bytes(data[:kept] + bytes(len(data) - kept))


def _patch(offset: int, data: bytes) -> Damage:
    def change(path: Path) -> None:
        old = path.read_bytes()
        path.write_bytes(old[:offset] + data + old[offset + len(data) :])

    return change


def _flip(share: float, bit: int) -> Damage:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(len(data) * share)] ^= bit
        path.write_bytes(data)

    return change


def _without(path: Path, name: str) -> None:
    """As another version might have written it: whole, but lacking something."""
    tensors, metadata = read_sealed(path)
    some = name if name in tensors else sorted(tensors)[0]
    write_sealed(path, {k: v for k, v in tensors.items() if k != some}, metadata)
