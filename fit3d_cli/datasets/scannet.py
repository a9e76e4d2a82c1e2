"""ScanNet: the forty classes of NYU40, depth from lists."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, DepthDataset, SegDataset
from fit3d_cli.datasets.boxes import EIGEN_BOX
from fit3d_cli.datasets.indoor import INDOOR_CROP, SEG_LAYOUT, folder_seg, listed_splits

CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
_INNER = ("scannet",)
_LISTS = (("scannet_train.txt",), ("scannet_val.txt", "scannet_test.txt"))


def _load_seg(root: Path) -> SegDataset:
    return folder_seg(root, "scannet", CLASSES, SPEC, _INNER)


def _load_depth(root: Path) -> DepthDataset:
    train, val = listed_splits(root, SPEC, inner=_INNER, lists=_LISTS)
    # The published evaluation scores ScanNet in the box of NYU, which means nothing here.
    return DepthDataset("scannet", train, val, parity_box=EIGEN_BOX, crop=INDOOR_CROP)


SPEC = DatasetSpec(
    source="http://www.scan-net.org (no frame list is published: write your own)",
    licence="ScanNet terms of use, non-commercial research",
    loaders={"seg": _load_seg, "depth": _load_depth},
    layouts={
        "seg": f"[scannet/]{SEG_LAYOUT}, labels 1..40 (NYU40) and 0 = none",
        "depth": "[scannet/]scannet_{train,val}.txt with lines PHOTO DEPTH [FOCAL] (depth in mm,"
        " of the photo's size) and the files that they name",
    },
)
DATASETS.add("scannet", SPEC)
