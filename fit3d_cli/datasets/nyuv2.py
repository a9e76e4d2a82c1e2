"""NYU Depth V2: thirteen classes (Couprie et al.), depth as BTS and its successors list it."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, DepthDataset, SegDataset
from fit3d_cli.datasets.boxes import EIGEN_BOX, NYU_TRAIN_BOX
from fit3d_cli.datasets.indoor import INDOOR_CROP, SEG_LAYOUT, folder_seg, listed_splits

CLASSES = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa",
    "table", "tv", "wall", "window",
)  # fmt: skip
_INNER = ("nyuv2", "nyu")
_LISTS = (
    ("nyu_train.txt", "nyudepthv2_train_files_with_gt.txt"),
    ("nyu_test.txt", "nyudepthv2_test_files_with_gt.txt"),
)


def _load_seg(root: Path) -> SegDataset:
    return folder_seg(root, "nyuv2", CLASSES, SPEC, _INNER)


def _load_depth(root: Path) -> DepthDataset:
    train, val = listed_splits(
        root, SPEC, inner=_INNER, lists=_LISTS, below=("sync", "official_splits/test")
    )
    return DepthDataset(
        "nyuv2", train, val,
        parity_box=EIGEN_BOX, fixed_box=EIGEN_BOX, train_box=NYU_TRAIN_BOX, crop=INDOOR_CROP,
    )  # fmt: skip


SPEC = DatasetSpec(
    source="https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html (prepared: links in"
    " https://github.com/ywyue/FiT3D for seg, https://github.com/cleinc/bts for depth)",
    licence="no licence stated by its authors, for research",
    loaders={"seg": _load_seg, "depth": _load_depth},
    layouts={
        "seg": f"[nyuv2/]{SEG_LAYOUT}, labels 1..13 and 0 = none",
        "depth": "[nyu/]nyu_{train,test}.txt with lines PHOTO DEPTH FOCAL (640x480, depth in mm)"
        " and the files that they name, below [sync/] and [official_splits/test/]",
    },
)
DATASETS.add("nyuv2", SPEC)
