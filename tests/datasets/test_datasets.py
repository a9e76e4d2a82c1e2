from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.datasets.base import (
    DepthDataset,
    Sample,
    SegDataset,
    load_dataset,
)
from fit3d_cli.errors import DatasetError, UnknownNameError
from fit3d_cli.images import save_png


def photo(path: Path, width: int = 6, height: int = 4) -> None:
    save_png(path, np.full((height, width, 3), 100, np.uint8))


def labels(path: Path, values: list[list[int]]) -> None:
    save_png(path, np.array(values, np.uint8))


def camvid(root: Path) -> Path:
    for split in ("train", "val"):
        for name in ("b", "a"):
            photo(root / split / "images" / f"{name}.png", 3, 1)
            labels(root / split / "labels" / f"{name}.png", [[0, 10, 11]])
    return root


def test_camvid_pairs_by_name_and_ignores_the_unlabelled(tmp_path: Path) -> None:
    dataset = load_dataset("seg", "camvid", camvid(tmp_path))
    assert dataset.video
    assert isinstance(dataset, SegDataset)
    assert [s.name for s in dataset.train] == ["a", "b"] == [s.name for s in dataset.val]
    assert len(dataset.classes) == 11
    found = dataset.labels(dataset.train[0])
    assert found.tolist() == [[0, 10, dataset.ignore_index]]


def ade20k(root: Path) -> Path:
    for split in ("training", "validation"):
        photo(root / "images" / split / "x.png", 3, 1)
        labels(root / "annotations" / split / "x.png", [[0, 1, 150]])
    return root


@pytest.mark.parametrize("inner", ["", "ADEChallengeData2016"])
def test_ade20k_shifts_labels_down_and_ignores_other(tmp_path: Path, inner: str) -> None:
    ade20k(tmp_path / inner)
    dataset = load_dataset("seg", "ade20k", tmp_path)
    assert isinstance(dataset, SegDataset)
    assert len(dataset.classes) == 150 and dataset.classes[0] == "class 1"
    assert dataset.labels(dataset.val[0]).tolist() == [[dataset.ignore_index, 0, 149]]


def test_ade20k_takes_class_names_from_its_own_table(tmp_path: Path) -> None:
    ade20k(tmp_path)
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{n}\t0.1\t1\t1\t1\tthing{n}, other name" for n in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    dataset = load_dataset("seg", "ade20k", tmp_path)
    assert isinstance(dataset, SegDataset)
    assert dataset.classes[:2] == ("thing1", "thing2")


def rooms(root: Path) -> Path:
    for split, room in (("train", "one"), ("train", "two"), ("test", "three")):
        folder = root / split / room
        for frame in ("frame-000000", "frame-000001"):
            photo(folder / f"{frame}.color.png", 2, 1)
            labels(folder / f"{frame}.label.png", [[0, 1]])
            save_png(folder / f"{frame}.depth.png", np.array([[0, 2500]], np.uint16))
        (folder / "classes.txt").write_text("wall\nfloor\n")
    return root


def test_rooms_give_labels_and_depth(tmp_path: Path) -> None:
    seg = load_dataset("seg", "rooms", rooms(tmp_path))
    assert isinstance(seg, SegDataset)
    assert seg.classes == ("wall", "floor")
    assert [s.name for s in seg.train] == [
        f"{room}/frame-00000{n}" for room in ("one", "two") for n in (0, 1)
    ]
    assert seg.labels(seg.val[0]).tolist() == [[0, 1]]
    depth = load_dataset("depth", "rooms", tmp_path)
    assert isinstance(depth, DepthDataset)
    assert len(depth.train) == 4 and len(depth.val) == 2
    assert depth.depth(depth.val[0]).tolist() == [[0.0, 2.5]]


def test_rooms_of_other_classes_are_refused(tmp_path: Path) -> None:
    rooms(tmp_path)
    (tmp_path / "train" / "two" / "classes.txt").write_text("floor\nwall\n")
    with pytest.raises(DatasetError, match="other classes"):
        load_dataset("seg", "rooms", tmp_path)


def test_rooms_with_a_missing_label_are_refused(tmp_path: Path) -> None:
    rooms(tmp_path)
    (tmp_path / "train" / "one" / "frame-000001.label.png").unlink()
    with pytest.raises(DatasetError, match="missing") as caught:
        load_dataset("seg", "rooms", tmp_path)
    assert caught.value.where.endswith("frame-000001.label.png")


def test_photos_without_labels_are_refused(tmp_path: Path) -> None:
    camvid(tmp_path)
    (tmp_path / "val" / "labels" / "a.png").unlink()
    with pytest.raises(DatasetError, match="1 of 2 photos have no label file"):
        load_dataset("seg", "camvid", tmp_path)


def test_numbers_that_are_no_class_are_refused(tmp_path: Path) -> None:
    camvid(tmp_path)
    labels(tmp_path / "train" / "labels" / "a.png", [[0, 12, 11]])
    dataset = load_dataset("seg", "camvid", tmp_path)
    assert isinstance(dataset, SegDataset)
    with pytest.raises(DatasetError, match="label 12 is none of 11 classes"):
        dataset.labels(dataset.train[0])


def test_unknown_names_and_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean ade20k"):
        load_dataset("seg", "ade20", tmp_path)
    with pytest.raises(UnknownNameError, match="no labels for depth") as caught:
        load_dataset("depth", "camvid", tmp_path)
    assert "rooms" in caught.value.hint


def test_masked_depth_is_unknown(tmp_path: Path) -> None:
    save_png(tmp_path / "d.png", np.array([[500, 1000]], np.uint16))
    save_png(tmp_path / "m.png", np.array([[0, 255]], np.uint8))
    sample = Sample("s", tmp_path / "c.png", tmp_path / "d.png", tmp_path / "m.png")
    dataset = DepthDataset("x", (sample,), (sample,), scale=500.0)
    assert torch.equal(dataset.depth(sample), torch.tensor([[0.0, 2.0]]))
    save_png(tmp_path / "m.png", np.full((2, 2), 255, np.uint8))
    with pytest.raises(DatasetError, match="mask of 2x2 for depth of 2x1"):
        dataset.depth(sample)


@pytest.mark.realdata
def test_the_real_camvid_opens(realdata: Path) -> None:
    dataset = load_dataset("seg", "camvid", realdata / "camvid")
    assert isinstance(dataset, SegDataset)
    assert (len(dataset.train), len(dataset.val)) == (367, 101)
    found = dataset.labels(dataset.val[0])
    assert found.shape == (360, 480)
    assert len(found.unique()) > 5
