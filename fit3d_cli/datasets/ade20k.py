"""ADE20K scene parsing (SceneParse150), labels shifted down by one."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, SegDataset, absent
from fit3d_cli.datasets.files import split_folders, top_of

CLASS_COUNT = 150


def _load(root: Path) -> SegDataset:
    top = top_of(root, ("ADEChallengeData2016",), "images")
    train, val = split_folders(top)
    if not train or not val:
        raise absent(root, SPEC, "seg")
    # In the files 0 is "other": neither learnt nor scored.
    return SegDataset("ade20k", _class_names(top), train, val, first=1, unlabelled=frozenset({0}))


def _class_names(top: Path) -> tuple[str, ...]:
    """Names from the archive's own ``objectInfo150.txt`` (last column), else numbers."""
    path = top / "objectInfo150.txt"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    if len(rows) == CLASS_COUNT:
        return tuple(row[-1].split(",")[0].strip() for row in rows)
    return tuple(f"class {number}" for number in range(1, CLASS_COUNT + 1))


SPEC = DatasetSpec(
    source="http://sceneparsing.csail.mit.edu",
    licence="images for non-commercial research, annotations BSD-3-Clause",
    loaders={"seg": _load},
    layouts={
        "seg": "[ADEChallengeData2016/]{images,annotations}/{training,validation}/NAME.{jpg,png},"
        " labels 1..150 and 0 = other"
    },
)
DATASETS.add("ade20k", SPEC)
