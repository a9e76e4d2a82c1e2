"""What a dataset is, and the registry of their layouts.

A dataset file calls ``DATASETS.add(name, DatasetSpec(...))``. Its loaders list files and check
the layout; pictures are opened later, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import DatasetError, UnknownNameError
from fit3d_cli.images import read_depth, read_labels, read_mask
from fit3d_cli.registry import Registry

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        name: Unique in the split; reports list samples in the order of the split.
        image_path: The photo.
        label_path: Class numbers or depth, on the photo's pixel grid.
        mask_path: Mask, non-zero = use, or None.
    """

    name: str
    image_path: Path
    label_path: Path
    mask_path: Path | None = None


@dataclass(frozen=True)
class SegDataset:
    """Semantic segmentation.

    Attributes:
        name: What reports call it.
        classes: Class names; labels are their indices.
        train: Pictures that heads learn from.
        val: Pictures that are scored.
        ignore_index: Label of pixels that are neither learnt nor scored.
        transform: Stored class numbers to ``0 .. len(classes) - 1`` or ``ignore_index``.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    ignore_index: int = 255
    transform: Callable[[Tensor], Tensor] = lambda labels: labels

    def labels(self, sample: Sample) -> Tensor:
        """``[H, W]`` int64 labels of a sample.

        Raises:
            ImageError: The picture is not readable as labels.
            DatasetError: It holds numbers that are no class.
        """
        labels = self.transform(torch.from_numpy(read_labels(sample.label_path)))
        used = labels[labels != self.ignore_index]
        if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < len(self.classes):
            raise DatasetError(
                f"label {int(used.max())} is none of {len(self.classes)} classes of {self.name}",
                where=sample.label_path,
                hint="check that this is the right dataset",
            )
        return labels


@dataclass(frozen=True)
class DepthDataset:
    """Depth along the optical axis.

    Attributes:
        name: What reports call it.
        train: Pictures that heads learn from.
        val: Pictures that are scored.
        scales: Depth units of the files per metre, by sample name.
        metric: Whether the unit is the metre; otherwise it is the capture's own.
        notes: What a reader must know of the split.
    """

    name: str
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    scales: Mapping[str, float] = field(default_factory=dict)
    metric: bool = True
    notes: tuple[str, ...] = ()

    def depth(self, sample: Sample) -> Tensor:
        """``[H, W]`` float32 metres, 0 = unknown or masked.

        Raises:
            ImageError: A file is not readable as depth or mask.
            DatasetError: The mask has another size.
        """
        raw = read_depth(sample.label_path)
        depth = torch.from_numpy(raw) / self.scales.get(sample.name, 1000.0)
        if sample.mask_path is not None:
            mask = read_mask(sample.mask_path)
            if mask.shape != raw.shape:
                raise DatasetError(
                    f"mask of {_size(mask)} for depth of {_size(raw)}",
                    where=sample.mask_path,
                    hint="give both the size of the photo",
                )
            depth = torch.where(torch.from_numpy(mask), depth, 0.0)
        return depth


@dataclass(frozen=True)
class DatasetSpec:
    """A layout on disk.

    Attributes:
        layout: What the directory looks like, one line, shown when it does not fit.
        source: Where to get it.
        licence: Its licence, as its authors state it.
        loaders: Task (``seg``, ``depth``) to a function that lists the samples of a directory,
            or raises ``DatasetError``.
    """

    layout: str
    source: str
    licence: str
    loaders: Mapping[str, Callable[[Path], SegDataset | DepthDataset]]


DATASETS: Registry[DatasetSpec] = Registry("dataset", "fit3d_cli.datasets")


def load_dataset(task: str, name: str, root: Path) -> SegDataset | DepthDataset:
    """Open the registered dataset ``name`` for ``task``.

    Args:
        task: ``seg`` or ``depth``.
        name: As users type it.
        root: Its directory.

    Raises:
        UnknownNameError: No dataset of this name has labels for the task.
        DatasetError: The directory is absent or laid out otherwise.
    """
    spec = DATASETS.get(name, where=f"probe {task}")
    if task not in spec.loaders:
        raise UnknownNameError(
            f"{name!r} has no labels for {task}",
            where=f"probe {task}",
            hint=f"choose one of {', '.join(dataset_names(task)) or 'the other tasks'}",
        )
    if not root.is_dir():
        raise absent(root, spec)
    return spec.loaders[task](root)


def dataset_names(task: str) -> list[str]:
    """Names that ``load_dataset`` knows for a task."""
    return [name for name, spec in DATASETS.items() if task in spec.loaders]


def absent(where: Path, spec: DatasetSpec) -> DatasetError:
    """The error for a directory that is not there or is laid out otherwise."""
    return DatasetError(
        f"not found, or not laid out as {spec.layout}",
        where=where,
        hint=f"get it from {spec.source} ({spec.licence}) and name it with --data DIR",
    )


def pictures(directory: Path) -> dict[str, Path]:
    """Pictures directly in a directory by stem, sorted by name; empty if it is absent."""
    if not directory.is_dir():
        return {}
    files = sorted(p for p in directory.iterdir() if p.suffix.lower() in PICTURES)
    return {path.stem: path for path in files if not path.name.startswith(".")}


def paired(images: Path, labels: Path) -> tuple[Sample, ...]:
    """Samples of two directories whose files share their stems.

    Raises:
        DatasetError: A photo has no labels; pairing by order would be silent nonsense.
    """
    photos, annotations = pictures(images), pictures(labels)
    lacking = [stem for stem in photos if stem not in annotations]
    if lacking:
        raise DatasetError(
            f"{len(lacking)} of {len(photos)} photos have no label file (first: {lacking[0]})",
            where=labels,
            hint="complete the download",
        )
    return tuple(Sample(stem, path, annotations[stem]) for stem, path in photos.items())


def _size(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
