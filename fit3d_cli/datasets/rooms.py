"""Procedural rooms as the project's own generator writes them: RGB, depth and labels."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import (
    DATASETS,
    DatasetSpec,
    DepthDataset,
    Sample,
    SegDataset,
    absent,
)
from fit3d_cli.errors import DatasetError

_COLOR = ".color.png"


def _frames(root: Path, split: str, kind: str) -> tuple[Sample, ...]:
    """Frames of all rooms of a split that have a ``kind`` (label or depth) picture."""
    samples = []
    for photo in sorted((root / split).glob(f"*/*{_COLOR}")):
        stem = photo.name[: -len(_COLOR)]
        label = photo.with_name(f"{stem}.{kind}.png")
        if not label.is_file():
            raise DatasetError(
                "is missing", where=label, hint="generate the rooms again: fit3d demo"
            )
        samples.append(Sample(f"{photo.parent.name}/{stem}", photo, label))
    return tuple(samples)


def _classes(root: Path) -> tuple[str, ...]:
    """The class names, which must be those of every room."""
    files = sorted(path for path in root.glob("*/*/classes.txt") if path.is_file())
    if not files:
        raise absent(root, SPEC, "seg")
    lists = {path: path.read_text("utf-8", errors="replace").split("\n") for path in files}
    names = {path: tuple(n.strip() for n in lines if n.strip()) for path, lines in lists.items()}
    first = names[files[0]]
    for path, other in names.items():
        if other != first:
            raise DatasetError(
                f"other classes than {files[0]}",
                where=path,
                hint="generate the rooms again: fit3d demo",
            )
    return first


def _load_seg(root: Path) -> SegDataset:
    train, val = _frames(root, "train", "label"), _frames(root, "test", "label")
    if not train or not val:
        raise absent(root, SPEC, "seg")
    return SegDataset("rooms", _classes(root), train, val)


def _load_depth(root: Path) -> DepthDataset:
    train, val = _frames(root, "train", "depth"), _frames(root, "test", "depth")
    if not train or not val:
        raise absent(root, SPEC, "depth")
    return DepthDataset("rooms", train, val)


_LAYOUT = "{train,test}/ROOM/frame-NNNNNN.{color,depth,label}.png with ROOM/classes.txt"
SPEC = DatasetSpec(
    source="fit3d demo, which generates it",
    licence="Apache-2.0",
    loaders={"seg": _load_seg, "depth": _load_depth},
    layouts={"seg": _LAYOUT, "depth": _LAYOUT},
)
DATASETS.add("rooms", SPEC)
