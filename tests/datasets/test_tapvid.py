import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_cli.datasets import plain_pickle
from fit3d_cli.datasets.plain_pickle import read_plain_pickle
from fit3d_cli.datasets.tapvid import NAME, TrackedVideo, read_tapvid, strided_queries
from fit3d_cli.errors import DatasetError


def video(frames: int = 7, points: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "video": rng.integers(0, 256, (frames, 4, 6, 3)).astype(np.uint8),
        "points": rng.random((points, frames, 2)).astype(np.float32),
        "occluded": rng.random((points, frames)) < 0.4,
    }


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_gives_the_same_data(tmp_path: Path, protocol: int) -> None:
    wide = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    content: dict[Any, Any] = {
        "array": np.arange(300, dtype=np.uint16).reshape(3, 100),
        "fortran": np.asfortranarray(wide[0]),
        "strided": wide[:, ::2],
        "flags": np.array([[True, False]]),
        "empty": np.zeros((0, 2), np.float32),
        "scalars": [1, -1, 70_000, 1 << 40, 2.5, None, True, False, "ä", ("t", 1, 2, 3), ()],
        3: {"bytes": b"\x00\xff", "nested": [[], {}]},
    }
    content["again"] = content["array"]
    path = dump(tmp_path / "x.pkl", content, protocol)
    found = read_plain_pickle(path)
    assert list(found) == list(content)
    for name in ("array", "fortran", "strided", "flags", "empty", "again"):
        assert found[name].dtype == content[name].dtype
        np.testing.assert_array_equal(found[name], content[name])
    assert found["scalars"] == content["scalars"]
    assert bytes(found[3]["bytes"]) == b"\x00\xff" and found[3]["nested"] == [[], {}]
    with pytest.raises(ValueError):
        found["array"][0, 0] = 1  # a view of the file


def test_names_of_older_numpy(tmp_path: Path) -> None:
    raw = pickle.dumps({"a": np.arange(3)}, protocol=2)
    assert b"numpy._core.multiarray" in raw
    path = tmp_path / "old.pkl"
    path.write_bytes(raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_plain_pickle(path)["a"].tolist() == [0, 1, 2]


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


class State:
    def __init__(self) -> None:
        self.x = 1


def _global(module: bytes, name: bytes, arguments: bytes) -> bytes:
    return b"\x80\x02c" + module + b"\n" + name + b"\n" + arguments + b"R."


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("call", [os.system, eval, exec, os.mkdir, io.open, getattr, np.load])
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, protocol: int, call: Callable[..., Any]
) -> None:
    mark = tmp_path / "owned"
    argument = f"touch {mark}" if call is os.system else str(mark)
    path = dump(tmp_path / "x.pkl", {"davis": video(), "z": Evil(call, argument)}, protocol)
    with pytest.raises(DatasetError, match="refused unread"):
        read_plain_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "raw",
    [
        _global(b"__builtin__", b"eval", b"(X\x01\x00\x00\x001t"),
        _global(b"numpy", b"load", b"(X\x01\x00\x00\x00xt"),
        _global(b"numpy.core.multiarray", b"fromfile", b"(X\x01\x00\x00\x00xt"),
        _global(b"numpy._core.numpy._core.multiarray", b"_reconstruct", b"(t"),
        b"\x80\x02cnumpy\nndarray\n(t\x81.",  # NEWOBJ
        b"\x80\x02cnumpy\nndarray\n)R.",  # the class itself is not called
        b"\x80\x02(X\x02\x00\x00\x00osX\x06\x00\x00\x00systemios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # EXT1: looked up in a registry
        b"\x80\x02P0\n.",  # PERSID
        b"cos\nsystem\n(S'id'\ntR.",
        pickle.dumps(State()),
    ],
)
def test_other_opcodes_and_names_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=r"refused unread") as caught:
        read_plain_pickle(path)
    assert "\n" not in str(caught.value) and "never load it" in caught.value.hint


def test_every_truncation_and_flipped_byte_is_an_error_or_data(tmp_path: Path) -> None:
    raw = pickle.dumps({"a": video(2, 1)}, protocol=4)
    path = tmp_path / "x.pkl"
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(DatasetError):
            read_plain_pickle(path)
    rng = np.random.default_rng(0)
    for _ in range(400):
        broken = bytearray(raw)
        broken[rng.integers(len(raw))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            read_plain_pickle(path)
        except DatasetError as error:
            assert "\n" not in str(error)


def test_bombs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[Any] = []
    for _ in range(60):
        lists = [lists, lists]  # 2^60 leaves for a reader that walks the tree
    assert len(read_plain_pickle(dump(tmp_path / "laughs.pkl", lists))) == 2
    circle: list[Any] = []
    circle.append(circle)
    found = read_plain_pickle(dump(tmp_path / "circle.pkl", circle))
    assert found[0] is found
    huge = tmp_path / "huge.pkl"  # an array of 2^40 x 2^40 of no bytes
    huge.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89U\x00tb."
    )
    with pytest.raises(DatasetError, match="damaged"):
        read_plain_pickle(huge)
    monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 1000)
    with pytest.raises(DatasetError, match="entries"):
        read_plain_pickle(dump(tmp_path / "many.pkl", list(range(5000))))
    with pytest.raises(DatasetError, match="limit is 10"):
        read_plain_pickle(tmp_path / "many.pkl", max_bytes=10)
    (tmp_path / "empty.pkl").touch()
    with pytest.raises(DatasetError, match="damaged"):
        read_plain_pickle(tmp_path / "empty.pkl")


def test_objects_are_no_numbers(tmp_path: Path) -> None:
    for array in (np.array([object()]), np.array(["a"]), np.zeros(2, "f4,f4"), np.array([1j])):
        with pytest.raises(DatasetError):
            read_plain_pickle(dump(tmp_path / "x.pkl", {"a": array}))


@pytest.mark.parametrize("inner", ["", "tapvid_davis"])
def test_videos_are_read_and_sorted(tmp_path: Path, inner: str) -> None:
    content = {"goat": video(seed=1), "bear": video(5, seed=2)}
    (tmp_path / inner).mkdir(exist_ok=True)
    dump(tmp_path / inner / NAME, content)
    bear, goat = read_tapvid(tmp_path)
    assert (bear.name, goat.name) == ("bear", "goat")
    np.testing.assert_array_equal(goat.frames, content["goat"]["video"])
    np.testing.assert_allclose(bear.points, content["bear"]["points"])
    assert bear.occluded.tolist() == content["bear"]["occluded"].tolist()
    assert [v.name for v in read_tapvid(tmp_path / inner / NAME)] == ["bear", "goat"]


def test_keys_of_python_2_are_names_too(tmp_path: Path) -> None:
    entry = {key.encode(): value for key, value in video().items()}
    dump(tmp_path / NAME, {b"goat": entry})
    assert [v.name for v in read_tapvid(tmp_path)] == ["goat"]


def _without(key: str) -> dict[str, Any]:
    return {k: v for k, v in video().items() if k != key}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (_without("points"), "not all arrays"),
        ({**video(), "video": [b"jpeg"]}, "not all arrays"),
        ({**video(), "video": video()["video"].astype(np.float32)}, "video is float32"),
        ({**video(), "video": video()["video"][:, :0]}, "video is"),
        ({**video(), "video": video()["video"][:3]}, "3 frames"),
        ({**video(), "points": video()["points"][:, :, 0]}, "points"),
        ({**video(), "occluded": video()["occluded"][:2]}, "occluded"),
        ({**video(), "points": np.full((3, 7, 2), np.nan, np.float32)}, "not finite"),
        (7, "not a dict"),
    ],
)
def test_another_structure_is_one_clear_line(tmp_path: Path, entry: object, words: str) -> None:
    dump(tmp_path / NAME, {"goat": entry})
    with pytest.raises(DatasetError, match=words) as caught:
        read_tapvid(tmp_path)
    assert "goat" in str(caught.value) and "\n" not in str(caught.value)


def test_hidden_points_may_be_anything(tmp_path: Path) -> None:
    entry = video()
    entry["points"][entry["occluded"]] = np.nan
    dump(tmp_path / NAME, {"goat": entry})
    assert len(read_tapvid(tmp_path)) == 1


def test_absent_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read_tapvid(tmp_path / "none")
    line = str(caught.value)
    for words in (NAME, "dm-tapnet", "CC BY", "--data"):
        assert words in line


def test_strided_queries_are_the_visible_points_of_every_fifth_frame() -> None:
    hidden = torch.ones(3, 11, dtype=torch.bool)
    hidden[0, [0, 1, 10]] = False  # frame 1 is no query
    hidden[1, 5] = False
    hidden[2, [4, 9]] = False  # never visible in a query frame
    one = TrackedVideo("x", np.zeros((11, 2, 2, 3), np.uint8), torch.zeros(3, 11, 2), hidden)
    queries = strided_queries(one)
    assert list(zip(queries.track.tolist(), queries.frame.tolist(), strict=True)) == [
        (0, 0), (1, 5), (0, 10),
    ]  # fmt: skip
