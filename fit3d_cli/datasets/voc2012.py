"""PASCAL VOC 2012 segmentation: the plain training list, without the augmented set."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, Sample, SegDataset, absent
from fit3d_cli.datasets.files import Inside, list_lines, top_of
from fit3d_cli.errors import DatasetError

# 0 is the background, a class like the others; 255, the outlines, is ignored.
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def _load(root: Path) -> SegDataset:
    top = top_of(root, ("VOCdevkit/VOC2012", "VOC2012"), "JPEGImages")
    lists = [top / "ImageSets" / "Segmentation" / f"{split}.txt" for split in ("train", "val")]
    if not all(path.is_file() for path in lists):
        raise absent(root, SPEC, "seg")
    train, val = (_listed(top, path) for path in lists)
    return SegDataset("voc2012", CLASSES, train, val)


def _listed(top: Path, path: Path) -> tuple[Sample, ...]:
    photos, labels = Inside([top / "JPEGImages"]), Inside([top / "SegmentationClass"])
    samples = {
        words[0]: Sample(
            words[0],
            photos.find(f"{words[0]}.jpg", where=where),
            labels.find(f"{words[0]}.png", where=where),
        )
        for where, words in list_lines(path, columns=1)
    }
    if not samples:
        raise DatasetError("lists no picture", where=path,
                           hint="replace it by the list that the authors publish")  # fmt: skip
    return tuple(samples.values())


SPEC = DatasetSpec(
    source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
    licence="photos under Flickr's terms of use, for research",
    loaders={"seg": _load},
    layouts={
        "seg": "[VOCdevkit/][VOC2012/]{JPEGImages/NAME.jpg,SegmentationClass/NAME.png,"
        "ImageSets/Segmentation/{train,val}.txt}"
    },
)
DATASETS.add("voc2012", SPEC)
