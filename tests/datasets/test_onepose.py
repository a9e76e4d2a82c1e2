import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.datasets.onepose import FOLDER, read_onepose
from fit3d_cli.datasets.onepose_points import read_points
from fit3d_cli.errors import DatasetError
from fit3d_cli.images import save_png

K = np.array([[500.0, 0, 256], [0, 510, 250], [0, 0, 1]])
POINTS = np.arange(12, dtype=np.float64).reshape(4, 3) / 10
ANNOTATION = {
    "keypoints2d": [[10.0, 20.0], [30.5, 40.0], [5.0, 6.0]],
    "assign_matrix": [[2, 0], [3, 1]],
}


def pose(shift: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[0, -1], [1, 0]]
    matrix[:3, 3] = [shift, 0, 0.5]
    return matrix


def sequence(folder: Path, count: int) -> Path:
    for number in range(count):
        save_png(folder / "color" / f"{number}.png", np.zeros((4, 4, 3), np.uint8))
        for name, matrix in (("intrin_ba", K), ("poses_ba", pose(number))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.savetxt(folder / name / f"{number}.txt", matrix)
    return folder


def one_object(base: Path, name: str = "0639-teabox-others", queries: int = 12) -> Path:
    folder = base / name
    short = name.split("-")[1]
    sequence(folder / f"{short}-1", 3)
    sequence(folder / f"{short}-2", queries)
    return folder


def loftr(folder: Path, at: Path | None = None) -> Path:
    first = next(folder.glob("*-1"))
    (first / "anno_loftr").mkdir()
    for number in (0, 2):
        (first / "anno_loftr" / f"{number}.json").write_text(json.dumps(ANNOTATION))
    place = (at or folder) / "anno" / "anno_3d_average.npz"
    place.parent.mkdir(parents=True)
    np.savez(place, keypoints3d=POINTS, descriptors3d=np.zeros((256, 4)))
    return folder


def colmap(folder: Path) -> Path:
    model = next(folder.glob("*-1")) / "sparse"
    model.mkdir()
    rows = [f"{10 * i + 7} {' '.join(map(str, p))} 1 2 3 0.5 1 0" for i, p in enumerate(POINTS)]
    (model / "points3D.txt").write_text("# points\n" + "\n".join(rows) + "\n")
    (model / "images.txt").write_text(
        "# images\n1 1 0 0 0 0 0 0 1 0.png\n5 6 37 10 20 17 3 3 -1\n2 1 0 0 0 0 0 0 1 1.png\n\n"
    )
    return folder


@pytest.mark.parametrize("inner", ["", FOLDER])
@pytest.mark.parametrize("beside", [False, True])
def test_both_layouts_of_the_sfm_output(tmp_path: Path, inner: str, beside: bool) -> None:
    base = tmp_path / inner
    folder = one_object(base)
    sfm = tmp_path / "sfm_output" / "outputs_softmax_loftr_loftr" / folder.name
    loftr(folder, sfm if beside else None)
    (found,) = read_onepose(tmp_path)
    assert found.name == "0639-teabox-others"
    assert [t.image.name for t in found.templates] == ["0.png", "2.png"]
    pixels, points = found.templates[0].keypoints.read()
    assert pixels.tolist() == [[5, 6], [10, 20]]
    assert points.tolist() == POINTS[[3, 1]].tolist()
    assert [q.image.name for q in found.queries] == ["0.png", "10.png"]  # by number, not by text
    assert torch.equal(found.queries[1].K, torch.from_numpy(K))
    assert torch.equal(found.queries[1].pose, torch.from_numpy(pose(10)))


def test_a_colmap_model(tmp_path: Path) -> None:
    colmap(one_object(tmp_path))
    (found,) = read_onepose(tmp_path, every=4)
    assert [t.image.name for t in found.templates] == ["0.png", "1.png"]
    pixels, points = found.templates[0].keypoints.read()
    assert pixels.tolist() == [[5, 6], [10, 20]]
    assert points.tolist() == POINTS[[3, 1]].tolist()
    assert len(found.templates[1].keypoints.read()[0]) == 0
    assert [q.image.stem for q in found.queries] == ["0", "4", "8"]


def test_objects_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("1000-b-others", "0999-a-others"):
        colmap(one_object(tmp_path, name))
    assert [o.name for o in read_onepose(tmp_path)] == ["0999-a-others", "1000-b-others"]


def test_absent_says_where_to_get_it(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError) as caught:
            read_onepose(root)
        for words in ("poses_ba", "anno_3d_average.npz", "OnePose_Plus_Plus", "licence", "--data"):
            assert words in caught.value.what + caught.value.hint


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = one_object(tmp_path)
    with pytest.raises(DatasetError, match="no template has key points"):
        read_onepose(tmp_path)
    loftr(folder)
    (folder / "anno" / "anno_3d_average.npz").unlink()
    with pytest.raises(DatasetError, match="without its 3D points"):
        read_onepose(tmp_path)
    for path in (folder / "teabox-2" / "color").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no photos"):
        read_onepose(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("intrin_ba", ""),
        ("intrin_ba", "1 2\n3"),
        ("intrin_ba", "-5 0 2\n0 5 2\n0 0 1"),
        ("intrin_ba", "5 0 2\n0 5 2\n0 0 2"),
        ("intrin_ba", "nan 0 2\n0 5 2\n0 0 1"),
        ("poses_ba", "1 0 0 0\n0 1 0 0\n0 0 -1 0\n0 0 0 1"),  # a mirror
        ("poses_ba", "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1"),
        ("poses_ba", "1 0 0 inf\n0 1 0 0\n0 0 1 0\n0 0 0 1"),
        ("poses_ba", "a b"),
    ],
)
def test_damaged_matrices(tmp_path: Path, name: str, text: str) -> None:
    folder = loftr(one_object(tmp_path))
    path = folder / "teabox-2" / name / "10.txt"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_onepose(tmp_path)
    assert caught.value.where == str(path) and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_onepose(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"keypoints2d": [[1, 2]], "assign_matrix": [[1], [0]]},
        {"keypoints2d": [[1, 2]], "assign_matrix": [[-1], [0]]},
        {"keypoints2d": [[1, 2]], "assign_matrix": [[0], [4]]},
        {"keypoints2d": [[1, 2]], "assign_matrix": [[0.5], [0]]},
        {"keypoints2d": [[1, 2]], "assign_matrix": [[0, 0], [0]]},
        {"keypoints2d": [[1, 2, 3]], "assign_matrix": [[0], [0]]},
        {"keypoints2d": "ab", "assign_matrix": [[0], [0]]},
        {"assign_matrix": [[0], [0]]},
        [],
    ],
)
def test_damaged_annotations(tmp_path: Path, content: object) -> None:
    folder = loftr(one_object(tmp_path))
    (folder / "teabox-1" / "anno_loftr" / "0.json").write_text(json.dumps(content))
    (found,) = read_onepose(tmp_path)
    with pytest.raises(DatasetError, match="damaged") as caught:
        found.templates[0].keypoints.read()
    assert caught.value.where.endswith("0.json") and "\n" not in str(caught.value)


def test_truncated_json_and_unknown_points(tmp_path: Path) -> None:
    folder = loftr(one_object(tmp_path))
    path = folder / "teabox-1" / "anno_loftr" / "0.json"
    path.write_text(json.dumps({**ANNOTATION, "keypoints2d": [[float("nan"), 2], [1, 2], [5, 6]]}))
    (found,) = read_onepose(tmp_path)
    assert found.templates[0].keypoints.read()[0].tolist() == [[5, 6]]
    path.write_text(json.dumps(ANNOTATION)[:-9])
    with pytest.raises(DatasetError, match="damaged"):
        found.templates[0].keypoints.read()
    path.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="damaged"):
        found.templates[0].keypoints.read()


def test_points_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "anno.npz"
    np.savez(path, keypoints3d=np.array([[object()] * 3]), allow_pickle=True)
    with pytest.raises(DatasetError, match="damaged"):
        read_points(path)
    np.savez(path, keypoints3d=POINTS, other=np.array([object()]), allow_pickle=True)
    assert torch.equal(read_points(path), torch.from_numpy(POINTS))
    raw = path.read_bytes()
    for length in (0, 10, len(raw) // 2):
        path.write_bytes(raw[:length])
        with pytest.raises(DatasetError, match="damaged"):
            read_points(path)
    for array in (np.zeros((3, 2)), np.zeros(3), np.array([["a", "b", "c"]])):
        np.savez(path, keypoints3d=array)
        with pytest.raises(DatasetError, match="damaged"):
            read_points(path)
    np.savez(path, points=POINTS)
    with pytest.raises(DatasetError, match="damaged"):
        read_points(path)


def test_a_compressed_bomb_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "anno.npz"
    np.savez_compressed(path, keypoints3d=np.zeros((100_000, 3)))
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].compress_size < 10_000
    monkeypatch.setattr("fit3d_cli.datasets.onepose_points._MAX_BYTES", 1_000_000)
    with pytest.raises(DatasetError, match="larger"):
        read_points(path)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("images.txt", "37 10", "38 10"),
        ("images.txt", " -1", ""),
        ("images.txt", "5 6", "x 6"),
        ("images.txt", " 1 0.png", ""),
        ("points3D.txt", "7 0.0", "x 0.0"),
        ("points3D.txt", "17 0.3 0.4 0.5 1 2 3 0.5 1 0", "17 0.3"),
    ],
)
def test_damaged_colmap_models(tmp_path: Path, name: str, old: str, new: str) -> None:
    folder = colmap(one_object(tmp_path))
    path = folder / "teabox-1" / "sparse" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError, match="damaged"):
        read_onepose(tmp_path)
