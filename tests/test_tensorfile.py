"""The strict safetensors parser: what it accepts, the library accepts with equal bytes."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from fit3d_cli import tensorfile
from fit3d_cli.errors import ArchiveError
from fit3d_cli.tensorfile import ARCHIVE_LIMITS, MODEL_LIMITS, files


def sample() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.half": torch.randn(3, 5, generator=generator).half(),
        "a.bytes": torch.arange(7, dtype=torch.uint8),
        "c.wide": torch.randn(2, 3, generator=generator, dtype=torch.float64),
        "d.strided": torch.randn(4, 6, generator=generator)[:, ::2],
        "e.empty": torch.zeros(0, 3),
        "f.scalar": torch.tensor(5, dtype=torch.int64),
        "g.brain": torch.randn(3, generator=generator).bfloat16(),
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def test_bytes_of_a_small_file_are_as_specified(tmp_path: Path) -> None:
    path = tmp_path / "small"
    tensors = {
        "b": np.array([1.0], dtype=np.float32),
        "a": np.array([3], dtype=np.uint8),
        "c": np.array([2.0], dtype=np.float32),
    }
    tensorfile.write_tensors(path, tensors, {"z": "1", "format": "f3d"})
    header = (
        b'{"__metadata__":{"format":"f3d","z":"1"},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"c":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}}'
    )
    header += b" " * (-(len(header) + 8) % 64)
    expected = struct.pack("<Q", len(header)) + header + struct.pack("<ff", 1, 2) + b"\x03"
    assert path.read_bytes() == expected
    assert tensorfile.read_header(path).data_start % 64 == 0
    assert tensorfile.read_header(path).canonical


def test_round_trip_and_the_safetensors_library_agrees(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensorfile.write_tensors(path, sample(), {"key": "välue"})
    tensors, metadata = tensorfile.read_tensors(path)
    assert metadata == {"key": "välue"}
    assert same(tensors, sample())
    assert same(safetensors.torch.load_file(path), sample())
    again = tmp_path / "again"
    tensorfile.write_tensors(again, dict(reversed(tensors.items())), metadata)
    assert again.read_bytes() == path.read_bytes()
    subset, _ = tensorfile.read_tensors(path, ["c.wide"])
    assert list(subset) == ["c.wide"]
    with pytest.raises(ArchiveError, match="no tensor nothing"):
        tensorfile.read_tensors(path, ["nothing"])


def test_what_is_read_is_writable_and_owned(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensorfile.write_tensors(path, {"a": torch.ones(3)}, {})
    before = path.read_bytes()
    tensors, _ = tensorfile.read_tensors(path)
    os.truncate(path, 0)  # a mapped file would now kill the process
    tensors["a"] += 1
    assert tensors["a"].tolist() == [2, 2, 2]
    assert len(before) > 0


def test_checkpoints_of_the_library_are_read_with_model_limits(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights = {f"blocks.{i}.attn/QKV-{i}.weight": torch.full((2, 2), float(i)) for i in range(300)}
    weights["mask"] = torch.tensor([True, False])
    safetensors.torch.save_file(weights, path, {"by": "someone"})
    tensors, metadata = tensorfile.read_tensors(path, limits=MODEL_LIMITS)
    assert same(tensors, weights)
    assert metadata == {"by": "someone"}
    with pytest.raises(ArchiveError, match="301 tensors"):
        tensorfile.read_tensors(path)


def test_what_the_format_lacks_is_a_bug_of_the_caller() -> None:
    for name in ("..", "a b", "", "x" * 300, "__metadata__"):
        with pytest.raises(ValueError, match="name"):
            tensorfile.encode({name: torch.ones(1)}, {})
    with pytest.raises(ValueError, match="complex"):
        tensorfile.encode({"a": torch.ones(1, dtype=torch.complex64)}, {})


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def with_header(text: str | bytes | dict[str, Any], data: bytes = b"") -> bytes:
    if isinstance(text, dict):
        text = json.dumps(text)
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw + data


GOOD = entry("F32", [1], 0, 4)
FOUR = b"\0\0\0\0"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "five bytes": (b"abcde", "truncated at 5 bytes"),
    "header of 2^63": (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
    "header past the end": (struct.pack("<Q", 1000) + b"{}", "truncated at 10 of more than 1008"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"),
    "a pickle": (struct.pack("<Q", 20) + b"\x80\x04cos\nsystem\n(S'x'\ntR.", "malformed"),
    "a list": (with_header("[]"), "brace"),
    "not UTF-8": (with_header(b'{"\xff": 1}'), "malformed"),
    "unfinished JSON": (with_header('{"a": {"dtype"'), "malformed"),
    "two documents": (with_header("{}{}"), "malformed"),
    "duplicate tensor": (
        with_header('{"a":' + json.dumps(GOOD) + ',"a":' + json.dumps(GOOD) + "}", FOUR), "twice",
    ),
    "duplicate metadata": (with_header('{"__metadata__":{"k":"a","k":"b"}}'), "twice"),
    "deep": (with_header('{"a":' + "[" * 6000 + "]" * 6000 + "}"), "deep"),
    "deep objects": (with_header('{"a":' * 6000 + "1" + "}" * 6000), "deep"),
    "deeper": (with_header('{"a":' + "[" * 500_000 + "]" * 500_000 + "}"), "more than 6656 values"),
    "wide": (with_header('{"a":[' + "{}," * 340_000 + "{}]}"), "more than 6656 values"),
    "many numbers": (with_header('{"a":[' + "0," * 500_000 + "0]}"), "more than 6656 values"),
    "many strings": (with_header('{"a":[' + '"",' * 340_000 + '""]}'), "more than 6656 values"),
    "quotes without an end": (with_header('{"' + '\\"' * 500_000), "malformed"),
    "names of keys spelt otherwise": (
        with_header("{" + ",".join(f'"t{i}":{{"\\u0064type":"U8"}}' for i in range(9000)) + "}"),
        "more than 6656 values",
    ),
    "zero below zero": (
        with_header('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "zero below zero",
    ),
    "half a character": (with_header('{"__metadata__":{"a":"\\ud800"}}'), "no text"),
    "letters beyond ASCII": (with_header('{"__metadata__":{"a":"é"}}'), "not ASCII"),
    "trailing bytes": (with_header({"a": GOOD}, FOUR + b"x"), "1 bytes after"),
    "truncated data": (with_header({"a": GOOD}, FOUR[:3]), "truncated at 72 of 73 bytes"),
    "hole": (with_header({"a": GOOD, "b": entry("F32", [1], 8, 12)}, FOUR * 3), "hole"),
    "late start": (with_header({"a": entry("F32", [1], 4, 8)}, FOUR * 2), "hole"),
    "overlap": (with_header({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)},
                            FOUR * 2), "overlap"),
    "negative": (with_header({"a": entry("F32", [1], -4, 0)}), "not natural"),
    "backwards": (with_header({"a": entry("F32", [1], 4, 0)}, FOUR), "offsets"),
    "overflow": (with_header({"a": entry("F32", [2**31 - 1] * 3 + [4], 0, 16)}, FOUR * 4),
                 "does not fill"),
    "product wraps to 0": (with_header({"a": entry("U8", [2**30, 2**30, 16], 0, 0)}),
                           "does not fill"),
    "huge dimension": (with_header({"a": entry("U8", [2**31, 0], 0, 0)}), "shape"),
    "huge integer": (with_header('{"a":{"dtype":"U8","shape":[' + "9" * 5000
                                 + '],"data_offsets":[0,0]}}'), "digits"),
    "float shape": (with_header({"a": entry("F32", [1.0], 0, 4)}, FOUR), "not allowed"),
    "NaN shape": (with_header('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', FOUR),
                  "not allowed"),
    "boolean shape": (with_header({"a": entry("F32", [True], 0, 4)}, FOUR), "not natural"),
    "rank 5": (with_header({"a": entry("F32", [1] * 5, 0, 4)}, FOUR), "shape"),
    "unknown dtype": (with_header({"a": entry("F8_E4M3", [4], 0, 4)}, FOUR), "dtype"),
    "dtype is a list": (with_header({"a": entry(["F32"], [1], 0, 4)}, FOUR), "dtype"),
    "extra key": (with_header({"a": GOOD | {"path": "/etc/passwd"}}, FOUR), "other keys"),
    "missing key": (with_header({"a": {"dtype": "F32", "shape": [1]}}, FOUR), "other keys"),
    "entry is a number": (with_header({"a": 4}), "other keys"),
    "name with dots": (with_header({"../a": GOOD}, FOUR), "name"),
    "name of dots": (with_header({"..": GOOD}, FOUR), "name"),
    "name with NUL": (with_header({"a\0": GOOD}, FOUR), "name"),
    "name with line break": (with_header({"a\n": GOOD}, FOUR), "name"),
    "name too long": (with_header({"a" * 65: GOOD}, FOUR), "name"),
    "metadata is a list": (with_header({"__metadata__": []}), "table"),
    "metadata holds a table": (with_header({"__metadata__": {"a": {}}}), "string"),
    "metadata too long": (with_header({"__metadata__": {"a": "x" * 300_000}}), "exceeds"),
    "a million characters": (with_header({"a" * 1_000_000: GOOD}, FOUR), "name"),
    "thousands of empty tensors": (
        with_header({f"t{i}": entry("U8", [0], 0, 0) for i in range(15_000)}), "15000 tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_quickly(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "hostile.f3d"
    path.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(ArchiveError) as caught:
        tensorfile.read_tensors(path)
    assert time.perf_counter() - began < 1.0
    assert message in str(caught.value)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert len(str(caught.value)) - len(str(path)) < 240
    assert str(caught.value).isprintable()


def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such file"):
        tensorfile.read_header(tmp_path / "absent")
    with pytest.raises(ArchiveError, match="not a file"):
        tensorfile.read_header(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ArchiveError, match="not a file"):  # and does not wait for a writer
        tensorfile.read_header(pipe)
    with pytest.raises(ArchiveError, match="cannot be opened"):
        tensorfile.read_header(Path("a\0b"))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensorfile.write_tensors(path, {"a": torch.ones(1000)}, {})
    with tensorfile.open_tensors(path) as file:
        os.truncate(path, 500)
        with pytest.raises(ArchiveError, match="shorter"):
            file.read("a")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tensorfile.write_tensors(path, {"a": torch.ones(3)}, {"k": "v"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            tensorfile.read_header(path)


def test_limits_bound_the_header_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:  # sparse: takes no space
        file.write(struct.pack("<Q", ARCHIVE_LIMITS.header + 1))
        file.truncate(10 << 30)
    with pytest.raises(ArchiveError, match="header of 1048577 bytes, at most 1048576"):
        tensorfile.read_header(path)


def test_known_headers_are_parsed_once_per_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    real = files._parse
    monkeypatch.setattr(files, "_parse", lambda p, *rest: parsed.append(p.name) or real(p, *rest))
    headers = tensorfile.Headers(5)

    def value(path: Path, name: str = "t0") -> float:
        with tensorfile.open_tensors(path, headers=headers) as file:
            return float(file.read(name))

    def write(name: str, tensors: int, start: float) -> Path:
        made = {f"t{i}": torch.tensor(start + i) for i in range(tensors)}
        tensorfile.write_tensors(tmp_path / name, made, {})
        return tmp_path / name

    one, two, three = write("one", 2, 10), write("two", 2, 20), write("three", 2, 30)
    assert [value(p) for p in (one, two, one, two)] == [10, 20, 10, 20]
    assert value(one, "t1") == 11 and parsed == ["one", "two"]
    write("one", 2, 40)
    assert value(one) == 40 and parsed[2:] == ["one"], "a replaced file is not the known one"
    # Five tensors at most: the headers that were not used last are forgotten.
    assert [value(p) for p in (three, one, two)] == [30, 40, 20]
    assert parsed[3:] == ["three", "two"]
    big = write("big", 9, 50)
    assert value(big) == value(big) == 50 and parsed[5:] == ["big"]
    with pytest.raises(ArchiveError, match="no such file"):
        value(tmp_path / "none")
