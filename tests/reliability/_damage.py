"""Damage by chance: bytes, pictures, JSON, tables of words, binary records."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

NUMBERS = (0, -1, 1, 0.5, 1e-300, 1e300, -1e300, 2**31, 2**60, 2**64, -(2**63), 10**400, 255, 65536)
WORDS = ("", "nan", "inf", "-inf", "1e999", "-1.#IND", "0x10", "1_000", "²", "٣", "9" * 5000,
         "true", "null", "../../etc/passwd", "/etc/passwd", "/dev/zero", "a\\b", "é", "\x00", "..",
         ".", "x" * 300, "9" * 300 + ".png", "con\n", "\udcff", "1" * 30, "-0", "1,5")  # fmt: skip
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def bytes_of(data: bytes, draw: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """A few changed, removed, doubled or foreign bytes; half of the changes near the start."""
    changed = bytearray(data or b"x")
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        end = len(changed) if draw.random() < 0.5 else min(len(changed), 200)
        at, kind = draw.randrange(end), draw.random()
        if kind < 0.5:
            changed[at] = draw.choice((0, 255, 127, 128, draw.randrange(256)))
        elif kind < 0.6:
            size = draw.choice((4, 8))
            changed[at : at + size] = draw.choice((b"\0", b"\xff")) * (size - 1) + b"\x7f"
        elif kind < 0.7:
            del changed[at : at + draw.randrange(1, 20)]
        elif kind < 0.8:
            changed[at:at] = changed[at : at + draw.randrange(1, 200)]
        elif kind < 0.9 or not others:
            del changed[at:]
        else:
            other = draw.choice(others)
            start = draw.randrange(len(other))
            changed[at:at] = other[start : start + draw.randrange(1, 100)]
        changed = changed or bytearray(b"x")
    return bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are right again, so that their content is looked at."""
    if not data.startswith(SIGNATURE):
        return data
    made, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        if at + 12 + size > len(data):
            return bytes(made + data[at:])
        made += data[at : at + 8 + size] + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(made)


def text_of(text: str, draw: random.Random) -> str:
    """A table of words with some changed, dropped, doubled; lines too."""
    lines = text.split("\n")
    for _ in range(draw.choice((1, 1, 2, 3))):
        at, kind = draw.randrange(len(lines)), draw.random()
        words = lines[at].split(" ")
        which = draw.randrange(len(words))
        if kind < 0.5:
            words[which] = draw.choice(WORDS) if draw.random() < 0.6 else str(draw.choice(NUMBERS))
        elif kind < 0.6:
            del words[which]
        elif kind < 0.7:
            words[which:which] = [words[which]] * draw.choice((1, 3, 1000))
        elif kind < 0.8:
            lines[at:at] = [lines[at]] * draw.choice((1, 2))
        elif kind < 0.85 and len(lines) > 1:
            del lines[at]
            continue
        elif kind < 0.95:
            words = [draw.choice("\t,;#%"), *words]
        else:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
            continue
        lines[at] = " ".join(words)
    return "\n".join(lines)


def json_of(text: str, draw: random.Random) -> str:
    """JSON with values of other kinds, keys removed, doubled, renamed; deep; NaN."""
    kind = draw.random()
    if kind < 0.04:
        return '{"frames": ' + "[" * draw.choice((50, 5000, 100_000))
    if kind < 0.08:
        return text.replace(draw.choice(("0", "1", ".", "{", '"')), draw.choice(("NaN", "", "1e")))
    tree = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 3))):
        _change_one(tree, draw)
    made = json.dumps(tree, allow_nan=True)
    if draw.random() < 0.1 and '"' in made:  # a key twice
        made = made[:-1] + ", " + made[made.index('"') :]
    return made


def _change_one(tree: Any, draw: random.Random) -> None:
    here = tree
    while True:
        if not isinstance(here, dict | list) or not here:
            return
        key = draw.choice(list(here)) if isinstance(here, dict) else draw.randrange(len(here))
        if isinstance(here[key], dict | list) and here[key] and draw.random() < 0.85:
            here = here[key]
            continue
        break
    kind = draw.random()
    if kind < 0.2:
        del here[key]
    elif kind < 0.3 and isinstance(here, list):
        here[key:key] = [here[key]] * draw.choice((1, 1, 50))
    elif kind < 0.4 and isinstance(here, dict):
        here[key + draw.choice(("x", "_", " "))] = here.pop(key)
    else:
        here[key] = draw.choice(
            (*NUMBERS[:-1], *WORDS, None, True, [], {}, [[1, 2], 3], {"a": {}}, float("nan"),
             float("inf"), 10**400)
        )  # fmt: skip


def binary_of(data: bytes, draw: random.Random) -> bytes:
    """Little-endian records with counts of 2^60, other byte order, cut, NaN."""
    kind = draw.random()
    if kind < 0.25:
        at = draw.randrange(0, max(1, len(data) - 8))
        value = draw.choice((2**60, 2**64 - 1, 2**32, 0, 1000, len(data)))
        return data[:at] + struct.pack("<Q", value) + data[at + 8 :]
    if kind < 0.4:
        value = draw.choice((2**60, 2**64 - 1, 2**31, 5, 0))
        return struct.pack("<Q", value) + data[8:]
    if kind < 0.5:
        return data[:8][::-1] + data[8:]
    if kind < 0.6:
        at = draw.randrange(len(data))
        return data[:at] + struct.pack("<d", draw.choice((float("nan"), 1e300))) + data[at + 8 :]
    return bytes_of(data, draw)
