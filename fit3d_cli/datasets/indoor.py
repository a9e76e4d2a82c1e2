"""What NYUv2, ScanNet and ScanNet++ share as FiT3D's evaluation lays them out."""

from __future__ import annotations

from pathlib import Path

from fit3d_cli.datasets.base import DatasetSpec, Sample, SegDataset, absent
from fit3d_cli.datasets.files import first_list, listed_depth, split_folders, top_of

_ZERO = frozenset({0})
# Height and width of the random crop of the published depth training.
INDOOR_CROP = (416, 544)
SEG_LAYOUT = "{images,annotations}/{training,validation}/NAME.{jpg,png}"


def folder_seg(
    root: Path, name: str, classes: tuple[str, ...], spec: DatasetSpec, inner: tuple[str, ...]
) -> SegDataset:
    """Segmentation in ADE20K's folders; in the files 0 means "no class".

    Args:
        root: What the user named.
        name: Of the dataset.
        classes: Names of the classes 1 and upwards.
        spec: For the message when the layout is another.
        inner: Outer folders of the archive.

    Raises:
        DatasetError: The layout is another, or a photo has no labels.
    """
    train, val = split_folders(top_of(root, inner, "images"))
    if not train or not val:
        raise absent(root, spec, "seg")
    return SegDataset(name, classes, train, val, first=1, unlabelled=_ZERO)


def listed_splits(
    root: Path,
    spec: DatasetSpec,
    *,
    inner: tuple[str, ...],
    lists: tuple[tuple[str, ...], tuple[str, ...]],
    below: tuple[str, ...] = (),
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Training and scored samples of two list files with ``PHOTO DEPTH [FOCAL]`` lines.

    Args:
        root: What the user named.
        spec: For the message when the layout is another.
        inner: Outer folders of the archive.
        lists: Names of the training list and of the list that is scored, in order of preference.
        below: Further folders that a list's paths may start from.

    Raises:
        DatasetError: A list is absent, empty or damaged, or names what is not there.
    """
    folders = [root, *(root / name for name in inner)]
    found = [first_list(folders, names) for names in lists]
    if None in found:
        raise absent(root, spec, "depth")
    bases = [base for top in folders for base in (top, *(top / name for name in below))]
    train, val = (listed_depth(path, bases, bases) for path in found if path is not None)
    return train, val
