"""KITTI depth: Eigen's split as BTS lists it, KITTI's crop, Garg's scored region."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, ColorChange, DatasetSpec, DepthDataset, absent
from fit3d_cli.datasets.files import first_list, listed_depth

_TRAIN = ("kitti_eigen_train.txt", "eigen_train_files_with_gt.txt")
_TEST = ("kitti_eigen_test.txt", "eigen_test_files_with_gt.txt")
_DEPTHS = ("gt_depth", "data_depth_annotated", "data_depth_annotated/train",
           "data_depth_annotated/val")  # fmt: skip


def _load(root: Path) -> DepthDataset:
    tops = [root, root / "kitti"]
    lists = first_list(tops, _TRAIN), first_list(tops, _TEST)
    if lists[0] is None or lists[1] is None:
        raise absent(root, SPEC, "depth")
    images = [top / name for top in tops for name in ("input", "raw", "")]
    depths = [top / name for top in tops for name in (*_DEPTHS, "")]
    train, val = (listed_depth(path, images, depths) for path in lists if path is not None)
    return DepthDataset(
        "kitti", train, val,
        scale=256.0,
        farthest=80.0,
        garg=True,
        kb_crop=True,
        crop=(352, 704),
        color=ColorChange(brightness=(0.9, 1.1)),
    )  # fmt: skip


SPEC = DatasetSpec(
    source="https://www.cvlibs.net/datasets/kitti (raw data and annotated depth; lists:"
    " train_test_inputs of https://github.com/cleinc/bts)",
    licence="CC BY-NC-SA 3.0",
    loaders={"depth": _load},
    layouts={
        "depth": "[kitti/]kitti_eigen_{train,test}.txt with lines PHOTO DEPTH FOCAL, photos below"
        " input/, 16-bit depth (256 = 1 m) below gt_depth/"
    },
)
DATASETS.add("kitti", SPEC)
