"""ScanNet++: the hundred classes of its benchmark, depth rendered from the mesh."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DATASETS, DatasetSpec, DepthDataset, SegDataset
from fit3d_cli.datasets.indoor import INDOOR_CROP, SEG_LAYOUT, folder_seg, listed_splits

CLASS_COUNT = 100
_INNER = ("scannetpp",)
_LISTS = (("scannetpp_train.txt",), ("scannetpp_val.txt",))
# The benchmark's own list of names, where it lies beside the pictures.
_NAMES = ("top100.txt", "metadata/semantic_benchmark/top100.txt")


def _load_seg(root: Path) -> SegDataset:
    return folder_seg(root, "scannetpp", _class_names(root), SPEC, _INNER)


def _class_names(root: Path) -> tuple[str, ...]:
    for path in (top / name for top in (root, root / "scannetpp") for name in _NAMES):
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
        names = tuple(line.strip() for line in lines if line.strip())
        if len(names) == CLASS_COUNT:
            return names
    return tuple(f"class {number}" for number in range(1, CLASS_COUNT + 1))


def _load_depth(root: Path) -> DepthDataset:
    train, val = listed_splits(root, SPEC, inner=_INNER, lists=_LISTS)
    return DepthDataset("scannetpp", train, val, farthest=20.0, crop=INDOOR_CROP)


SPEC = DatasetSpec(
    source="https://kaldir.vc.in.tum.de/scannetpp (prepared: links in"
    " https://github.com/ywyue/FiT3D)",
    licence="ScanNet++ terms of use, non-commercial research",
    loaders={"seg": _load_seg, "depth": _load_depth},
    layouts={
        "seg": f"[scannetpp/]{SEG_LAYOUT}, labels 1..100 and 0 = none",
        "depth": "[scannetpp/]scannetpp_{train,val}.txt with lines PHOTO DEPTH [FOCAL] (depth in"
        " mm, of the photo's size) and the files that they name",
    },
)
DATASETS.add("scannetpp", SPEC)
