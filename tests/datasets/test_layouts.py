"""Every reader on a tiny tree of the published layout: pairs, classes, ranges, crops."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from fit3d_cli.datasets.base import DATASETS, DepthDataset, SegDataset, dataset_names, load_dataset
from fit3d_cli.datasets.boxes import PixelBox, kb_box
from fit3d_cli.errors import DatasetError, ImageError

NAMES = {
    "seg": ["ade20k", "camvid", "nyuv2", "rooms", "scannet", "scannetpp", "voc2012"],
    "depth": ["kitti", "nyuv2", "rooms", "scannet", "scannetpp"],
}


def seg(trees: ModuleType, name: str, root: Path) -> SegDataset:
    trees.TREES["seg", name](root)
    dataset = load_dataset("seg", name, root)
    assert isinstance(dataset, SegDataset)
    return dataset


def depth(trees: ModuleType, name: str, root: Path) -> DepthDataset:
    trees.TREES["depth", name](root)
    dataset = load_dataset("depth", name, root)
    assert isinstance(dataset, DepthDataset)
    return dataset


def test_every_published_dataset_has_a_tree(trees: ModuleType) -> None:
    for task, names in NAMES.items():
        assert dataset_names(task) == names
        assert {n for t, n in trees.TREES if t == task} == set(names) - {"rooms"}


@pytest.mark.parametrize(
    ("name", "count", "first", "last", "zero"),
    [
        ("ade20k", 150, "class 1", "class 150", "ignored"),
        ("camvid", 11, "sky", "bicyclist", "class"),
        ("nyuv2", 13, "bed", "window", "ignored"),
        ("scannet", 40, "wall", "otherprop", "ignored"),
        ("scannetpp", 100, "class 1", "class 100", "ignored"),
        ("voc2012", 21, "background", "tvmonitor", "class"),
    ],
)
def test_segmentation_classes(
    trees: ModuleType, tmp_path: Path, name: str, count: int, first: str, last: str, zero: str
) -> None:
    dataset = seg(trees, name, tmp_path)
    assert len(dataset.classes) == len(set(dataset.classes)) == count
    assert (dataset.classes[0], dataset.classes[-1]) == (first, last)
    for sample in (*dataset.train, *dataset.val):
        found = dataset.labels(sample)
        # The trees hold the lowest and the highest class, and the number that is none.
        used = set(found.unique().tolist())
        assert {0, count - 1, 255} <= used
        assert max(used - {255}) == count - 1
    assert dataset.first == (1 if zero == "ignored" else 0)


def test_voc_reads_palette_numbers_and_only_what_its_lists_name(
    trees: ModuleType, tmp_path: Path
) -> None:
    dataset = seg(trees, "voc2012", tmp_path)
    assert [s.name for s in dataset.train] == ["2007_000032", "2007_000039"]
    assert [s.name for s in dataset.val] == ["2007_000033"]
    assert dataset.labels(dataset.val[0]).unique().tolist() == [0, 1, 20, 255]


def test_scannetpp_takes_names_from_the_benchmarks_list(trees: ModuleType, tmp_path: Path) -> None:
    trees.write_list(tmp_path / "top100.txt", [f"thing {n}" for n in range(100)])
    assert seg(trees, "scannetpp", tmp_path).classes[:2] == ("thing 0", "thing 1")
    trees.write_list(tmp_path / "top100.txt", ["one"])
    assert seg(trees, "scannetpp", tmp_path).classes[0] == "class 1"


@pytest.mark.parametrize("name", ["nyuv2", "scannet", "scannetpp", "voc2012", "ade20k"])
def test_the_outer_folder_may_be_there_or_not(trees: ModuleType, tmp_path: Path, name: str) -> None:
    outer = {"voc2012": "VOCdevkit", "ade20k": ""}.get(name, name)
    trees.TREES["seg", name](tmp_path / outer)
    wide = load_dataset("seg", name, tmp_path)
    inner = {"voc2012": "VOCdevkit/VOC2012", "ade20k": "ADEChallengeData2016"}.get(name, name)
    narrow = load_dataset("seg", name, tmp_path / inner)
    assert wide.train == narrow.train and wide.val == narrow.val


def test_depth_ranges_units_and_crops_are_the_published_ones(
    trees: ModuleType, tmp_path: Path
) -> None:
    sets = {name: depth(trees, name, tmp_path / name) for name in NAMES["depth"] if name != "rooms"}
    ranges = {name: (d.nearest, d.farthest, d.scale) for name, d in sets.items()}
    assert ranges == {
        "kitti": (0.001, 80.0, 256.0),
        "nyuv2": (0.001, 10.0, 1000.0),
        "scannet": (0.001, 10.0, 1000.0),
        "scannetpp": (0.001, 20.0, 1000.0),
    }
    eigen = PixelBox(45, 471, 41, 601)
    assert {n: (d.parity_box, d.fixed_box) for n, d in sets.items()} == {
        "kitti": (None, None), "nyuv2": (eigen, eigen), "scannet": (eigen, None),
        "scannetpp": (None, None),
    }  # fmt: skip
    assert {n: d.train_box for n, d in sets.items() if d.train_box} == {
        "nyuv2": PixelBox(45, 472, 43, 608)
    }
    assert [n for n, d in sets.items() if d.kb_crop and d.garg] == ["kitti"]
    assert {n: d.crop for n, d in sets.items()} == {
        "kitti": (352, 704), "nyuv2": (416, 544), "scannet": (416, 544), "scannetpp": (416, 544),
    }  # fmt: skip
    bright = {n: d.color.brightness for n, d in sets.items() if d.color}
    assert bright == {n: (0.9, 1.1) if n == "kitti" else (0.75, 1.25) for n in sets}
    assert all(d.rotate == 2.5 and d.flip and d.test_flip for d in sets.values())


@pytest.mark.parametrize("name", ["kitti", "nyuv2", "scannet", "scannetpp"])
def test_depth_is_in_metres_and_holes_are_unknown(
    trees: ModuleType, tmp_path: Path, name: str
) -> None:
    dataset = depth(trees, name, tmp_path)
    found = dataset.depth(dataset.val[0])
    height, width = found.shape
    assert float(found[0, 0]) == 0
    assert float(found[-1, -1]) == pytest.approx(4.5, abs=7) and found[-1, 0] > 1.4
    assert float(found[0, -1]) == pytest.approx(
        4.0 + 0.1 * (69 if name == "kitti" else 0), abs=0.01
    )
    whole = dataset.scored_region(height, width, parity=False)
    assert whole.shape == found.shape
    if name in ("kitti", "nyuv2"):
        assert not bool(whole[0].any())


def test_nones_are_passed_over_and_leading_slashes_are_the_lists_own(
    trees: ModuleType, tmp_path: Path
) -> None:
    nyu = depth(trees, "nyuv2", tmp_path / "a")
    assert [s.name for s in nyu.train] == [f"kitchen_0028b/rgb_0000{n}" for n in (0, 1)]
    assert [s.name for s in nyu.val] == ["bathroom/rgb_00045"]
    kitti = depth(trees, "kitti", tmp_path / "b")
    assert (len(kitti.train), len(kitti.val)) == (2, 1)
    assert kitti.val[0].label_path.is_relative_to(tmp_path / "b" / "gt_depth")


def test_bts_own_folders_and_names(trees: ModuleType, tmp_path: Path) -> None:
    trees.TREES["depth", "nyuv2"](tmp_path)
    top = tmp_path / "nyu"
    (top / "sync").mkdir()
    (top / "kitchen_0028b").rename(top / "sync" / "kitchen_0028b")
    (top / "official_splits" / "test").mkdir(parents=True)
    (top / "bathroom").rename(top / "official_splits" / "test" / "bathroom")
    for split in ("train", "test"):
        (top / f"nyu_{split}.txt").rename(top / f"nyudepthv2_{split}_files_with_gt.txt")
    dataset = load_dataset("depth", "nyuv2", top)
    assert (len(dataset.train), len(dataset.val)) == (2, 1)


LISTED = [("scannet", "scannet_val.txt"), ("kitti", "kitti_eigen_test.txt")]


@pytest.mark.parametrize(("name", "file"), LISTED)
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("only_one_column.jpg", "1 instead of at least 2 columns"),
        ("gone.jpg gone.png 1.0", "the list names gone.jpg, which is not there"),
        ("../outside.jpg x.png", "leads out of the dataset"),
        ("a/../../outside.jpg x.png", "leads out of the dataset"),
        ("/etc/passwd None.png", "the list names /etc/passwd, which is not there"),
        ("x" * 5000 + " y", "not a line of text"),
        ("a\0b.jpg c.png", "not a line of text"),
        ("n" * 300 + ".jpg y.png", "which is not there"),
    ],
)
def test_bad_lines_are_named_with_their_number(
    trees: ModuleType, tmp_path: Path, name: str, file: str, line: str, what: str
) -> None:
    for split in ("train", "test" if name == "kitti" else "val"):
        list_name = file.replace("test", split).replace("val", split)
        trees.write_list(tmp_path / "data" / list_name, ["a.jpg a.png 1.0"])
    trees.photo(tmp_path / "data" / "a.jpg", 4, 4)
    trees.depth(tmp_path / "data" / "a.png", 4, 4, 1000)
    trees.photo(tmp_path / "outside.jpg", 4, 4)
    path = tmp_path / "data" / file
    good = path.read_text()
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DatasetError) as caught:
        load_dataset("depth", name, tmp_path / "data")
    assert what in str(caught.value)
    assert caught.value.where == f"{path}:{len(good.splitlines()) + 2}"
    assert caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "a.jpg None 1.0\n"])
def test_empty_lists_are_refused(trees: ModuleType, tmp_path: Path, text: str) -> None:
    trees.TREES["depth", "scannetpp"](tmp_path)
    (tmp_path / "scannetpp_val.txt").write_text(text)
    with pytest.raises(DatasetError, match="lists no picture") as caught:
        load_dataset("depth", "scannetpp", tmp_path)
    assert caught.value.where == str(tmp_path / "scannetpp_val.txt")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_dataset_are_refused(trees: ModuleType, tmp_path: Path, what: str) -> None:
    trees.TREES["depth", "scannet"](tmp_path / "data")
    elsewhere = tmp_path / "elsewhere"
    inside = tmp_path / "data" / "scene0000_00"
    if what == "folder":
        inside.rename(elsewhere)
        inside.symlink_to(elsewhere)
    else:
        (inside / "color" / "val.jpg").rename(elsewhere)
        (inside / "color" / "val.jpg").symlink_to(elsewhere)
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        load_dataset("depth", "scannet", tmp_path / "data")


def test_the_dataset_itself_may_be_a_link_and_hold_links(trees: ModuleType, tmp_path: Path) -> None:
    trees.TREES["depth", "kitti"](tmp_path / "disk")
    (tmp_path / "disk" / "input").rename(tmp_path / "photos")
    (tmp_path / "disk" / "input").symlink_to(tmp_path / "photos")
    (tmp_path / "kitti").symlink_to(tmp_path / "disk")
    assert len(load_dataset("depth", "kitti", tmp_path / "kitti").train) == 2


def test_frames_that_stand_twice_in_a_list_keep_distinct_names(
    trees: ModuleType, tmp_path: Path
) -> None:
    trees.TREES["depth", "scannet"](tmp_path)
    path = tmp_path / "scannet_val.txt"
    path.write_text(path.read_text() * 2)
    dataset = load_dataset("depth", "scannet", tmp_path)
    assert len({s.name for s in dataset.val}) == len(dataset.val) == 4


def test_a_long_list_is_read_line_by_line(trees: ModuleType, tmp_path: Path) -> None:
    trees.TREES["depth", "scannet"](tmp_path)
    path = tmp_path / "scannet_train.txt"
    with path.open("a") as file:
        for _ in range(20_000):
            file.write("scene0000_00/color/train.jpg None 577.87\n")
        file.write("scene0000_00/color/train.jpg\n")
    with pytest.raises(DatasetError, match="1 instead of") as caught:
        load_dataset("depth", "scannet", tmp_path)
    assert caught.value.where.endswith(":20003")


def test_colour_pictures_and_eight_bit_depth_are_refused(trees: ModuleType, tmp_path: Path) -> None:
    dataset = depth(trees, "scannet", tmp_path / "a")
    trees.labels(dataset.val[0].label_path, 640, 480, [1, 2])
    with pytest.raises(ImageError, match="16-bit") as caught:
        dataset.depth(dataset.val[0])
    assert caught.value.where == str(dataset.val[0].label_path)
    coloured = seg(trees, "voc2012", tmp_path / "b")
    trees.photo(coloured.val[0].label_path, 50, 38)
    with pytest.raises(ImageError, match="palette PNG"):
        coloured.labels(coloured.val[0])


@pytest.mark.parametrize(("name", "number"), [("nyuv2", 14), ("scannet", 41), ("scannetpp", 101)])
def test_numbers_of_another_class_list_are_refused(
    trees: ModuleType, tmp_path: Path, name: str, number: int
) -> None:
    dataset = seg(trees, name, tmp_path)
    trees.labels(dataset.val[0].label_path, 64, 48, [0, 1, number])
    with pytest.raises(DatasetError, match=f"label {number} is none of {number - 1} classes"):
        dataset.labels(dataset.val[0])


def test_two_photos_of_one_name_are_refused(trees: ModuleType, tmp_path: Path) -> None:
    trees.TREES["seg", "scannet"](tmp_path)
    trees.photo(tmp_path / "images" / "training" / "training_0000.png", 64, 48)
    with pytest.raises(DatasetError, match="two pictures have this name"):
        load_dataset("seg", "scannet", tmp_path)


@pytest.mark.parametrize("name", ["nyuv2", "scannet"])
def test_the_box_of_nyu_does_not_fit_smaller_pictures(
    trees: ModuleType, tmp_path: Path, name: str
) -> None:
    dataset = depth(trees, name, tmp_path)
    assert int(dataset.scored_region(480, 640, parity=True).sum()) == (471 - 45) * (601 - 41)
    with pytest.raises(DatasetError, match=r"0\.jpg: .* 41:601 do not lie in a picture of 320x240"):
        dataset.scored_region(240, 320, parity=True, where="rgb/0.jpg")


def test_kittis_boxes(trees: ModuleType, tmp_path: Path) -> None:
    dataset = depth(trees, "kitti", tmp_path)
    assert kb_box(375, 1242, where="x") == PixelBox(23, 375, 13, 1229)
    with pytest.raises(DatasetError):
        kb_box(351, 1242, where="x")
    region = dataset.scored_region(352, 1216, parity=True)
    rows, columns = region.any(1).nonzero().flatten(), region.any(0).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1]) + 1) == (int(0.40810811 * 352), int(0.99189189 * 352))
    assert (int(columns[0]), int(columns[-1]) + 1) == (43, 1172)
    assert torch.equal(region, dataset.scored_region(352, 1216, parity=False))


@pytest.mark.parametrize(("task", "name"), [(t, n) for t, names in NAMES.items() for n in names])
@pytest.mark.parametrize("exists", [True, False])
def test_absent_data_names_layout_source_and_licence_in_one_line(
    tmp_path: Path, task: str, name: str, exists: bool
) -> None:
    root = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(DatasetError) as caught:
        load_dataset(task, name, root)
    spec = DATASETS.get(name)
    error = caught.value
    line = str(error)
    assert "\n" not in line and error.hint in line
    assert (error.where, spec.layouts[task] in error.what) == (str(root), True)
    for part in (spec.source, spec.licence, "--data"):
        assert part in error.hint
