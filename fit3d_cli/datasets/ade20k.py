"""ADE20K scene parsing (SceneParse150), labels shifted down by one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, SegDataset, absent, paired

IGNORE = 255
CLASS_COUNT = 150


def _transform(labels: Tensor) -> Tensor:
    # In the files 0 is "other": neither learnt nor scored.
    return torch.where(labels == 0, IGNORE, labels - 1)


def _load(root: Path) -> SegDataset:
    inner = root / "ADEChallengeData2016"
    top = inner if inner.is_dir() else root
    train = paired(top / "images" / "training", top / "annotations" / "training")
    val = paired(top / "images" / "validation", top / "annotations" / "validation")
    if not train or not val:
        raise absent(root, SPEC)
    return SegDataset("ade20k", _class_names(top), train, val, IGNORE, _transform)


def _class_names(top: Path) -> tuple[str, ...]:
    """Names from the archive's own ``objectInfo150.txt`` (last column), else numbers."""
    path = top / "objectInfo150.txt"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    if len(rows) == CLASS_COUNT:
        return tuple(row[-1].split(",")[0].strip() for row in rows)
    return tuple(f"class {number}" for number in range(1, CLASS_COUNT + 1))


SPEC = DatasetSpec(
    layout="[ADEChallengeData2016/]{images,annotations}/{training,validation}/NAME.{jpg,png}",
    source="http://sceneparsing.csail.mit.edu",
    licence="images for non-commercial research, annotations BSD-3-Clause",
    loaders={"seg": _load},
)
DATASETS.add("ade20k", SPEC)
