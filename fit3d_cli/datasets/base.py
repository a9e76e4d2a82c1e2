"""What a dataset is, and the registry of their layouts.

A dataset file calls ``DATASETS.add(name, DatasetSpec(...))``. Its loaders list files and check
the layout; pictures are opened later, one at a time. What a published protocol does differently
for one dataset (ranges, crops, augmentations) stands here as plain data, the probe applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.datasets.boxes import PixelBox, garg_box
from fit3d_cli.errors import DatasetError, UnknownNameError
from fit3d_cli.images import read_depth, read_labels, read_mask
from fit3d_cli.registry import Registry

NO_NUMBERS: frozenset[int] = frozenset()


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
        first: Number in the files of the first class (1 where 0 means "no class").
        unlabelled: Numbers in the files that become ``ignore_index``, as that number itself does.
        notes: What a reader must know of the split.
        video: Whether the scored pictures are frames of one video, in the order of time.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    ignore_index: int = 255
    first: int = 0
    unlabelled: frozenset[int] = NO_NUMBERS
    notes: tuple[str, ...] = ()
    video: bool = False

    def labels(self, sample: Sample) -> Tensor:
        """``[H, W]`` int64 labels of a sample: ``0 .. len(classes) - 1`` or ``ignore_index``.

        Raises:
            ImageError: The picture is not readable as labels.
            DatasetError: It holds numbers that are no class.
        """
        stored = torch.from_numpy(read_labels(sample.label_path))
        ignored = stored == self.ignore_index
        for number in self.unlabelled:
            ignored |= stored == number
        labels = stored - self.first
        wrong = stored[~ignored & ((labels < 0) | (labels >= len(self.classes)))]
        if wrong.numel():
            raise DatasetError(
                f"label {int(wrong[0])} is none of {len(self.classes)} classes of {self.name}"
                f" ({self.first} to {self.first + len(self.classes) - 1})",
                where=sample.label_path,
                hint="check that these are the labels of this dataset",
            )
        return torch.where(ignored, self.ignore_index, labels)


@dataclass(frozen=True)
class ColorChange:
    """Ranges of the published colour augmentation; every factor is drawn evenly.

    Attributes:
        gamma: Exponent of the picture in 0..1.
        brightness: Factor of all channels.
        color: Factor of each channel.
        probability: That a picture is changed at all.
    """

    gamma: tuple[float, float] = (0.9, 1.1)
    brightness: tuple[float, float] = (0.75, 1.25)
    color: tuple[float, float] = (0.9, 1.1)
    probability: float = 0.5


@dataclass(frozen=True)
class DepthDataset:
    """Depth along the optical axis.

    The defaults are those of any RGB-D set. Of the protocol fields the fast preset needs only
    the range, ``kb_crop`` and the scored region.

    Attributes:
        name: What reports call it.
        train: Pictures that heads learn from.
        val: Pictures that are scored.
        metric: Whether the unit is the metre; otherwise it is the capture's own.
        notes: What a reader must know of the split.
        scale: Depth units of the files per metre.
        nearest: First depth bin, and the depth at or below which pixels do not count, metres.
        farthest: Last depth bin, and the depth at or above which pixels do not count, metres.
        parity_box: Pixels scored as published, before any further mask; None = all.
        fixed_box: Pixels scored when the mistakes of the protocol are mended; None = all.
        garg: Score Garg's crop only.
        train_box: Photo and depth are cut to it before they are learnt from (published training).
        kb_crop: Photo and depth are cut to KITTI's 352 x 1216 (``kb_box``), learnt or scored.
        crop: Height and width of the random crop of the published training; None = whole pictures.
        rotate: Largest rotation of the published training, degrees, one picture in two.
        flip: Mirror one training picture in two.
        color: Colour change of the published training; None = none.
        test_flip: The published test averages the picture's and its mirror image's prediction.
        video: Whether the scored pictures are frames of one video, in the order of time.
        measure: Reads the depth of a sample, ``[H, W]`` float32 metres, masked, where the file
            alone does not say it (another camera's depth); None = the file does.
    """

    name: str
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    metric: bool = True
    notes: tuple[str, ...] = ()
    scale: float = 1000.0
    nearest: float = 0.001
    farthest: float = 10.0
    parity_box: PixelBox | None = None
    fixed_box: PixelBox | None = None
    garg: bool = False
    train_box: PixelBox | None = None
    kb_crop: bool = False
    crop: tuple[int, int] | None = None
    rotate: float = 2.5
    flip: bool = True
    color: ColorChange | None = ColorChange()
    test_flip: bool = True
    video: bool = False
    measure: Callable[[Sample], Tensor] | None = None

    def depth(self, sample: Sample) -> Tensor:
        """``[H, W]`` float32 metres, 0 = unknown or masked, on the stored photo's grid.

        Raises:
            ImageError: A file is not readable as depth or mask.
            DatasetError: The mask has another size.
        """
        if self.measure is not None:
            return self.measure(sample)
        raw = read_depth(sample.label_path)
        depth = torch.from_numpy(raw) / self.scale
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

    def scored_region(
        self, height: int, width: int, *, parity: bool, where: str | Path = ""
    ) -> Tensor:
        """``[height, width]`` bool: where a picture's pixels may be scored.

        Args:
            height: Of the scored picture; with ``kb_crop`` after that cut.
            width: The same.
            parity: As published, else mended.
            where: What a message names instead of the dataset.

        Raises:
            DatasetError: The picture is smaller than the protocol's box.
        """
        region = torch.ones(height, width, dtype=torch.bool)
        box = self.parity_box if parity else self.fixed_box
        if box is not None:
            region &= box.mask(height, width, where=str(where or self.name))
        if self.garg:
            region &= garg_box(height, width).mask(height, width, where=str(where or self.name))
        return region


@dataclass(frozen=True)
class DatasetSpec:
    """A layout on disk.

    Attributes:
        source: Where to get it.
        licence: Its licence, as its authors state it.
        loaders: Task (``seg``, ``depth``) to a function that lists the samples of a directory,
            or raises ``DatasetError``.
        layouts: Task to what the directory looks like, one line, shown when it does not fit.
    """

    source: str
    licence: str
    loaders: Mapping[str, Callable[[Path], SegDataset | DepthDataset]]
    layouts: Mapping[str, str]


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
        raise absent(root, spec, task)
    return spec.loaders[task](root)


def dataset_names(task: str) -> list[str]:
    """Names that ``load_dataset`` knows for a task."""
    return [name for name, spec in DATASETS.items() if task in spec.loaders]


def absent(where: Path, spec: DatasetSpec, task: str) -> DatasetError:
    """The error for a directory that is not there or is laid out otherwise."""
    return DatasetError(
        f"not found, or not laid out as {spec.layouts[task]}",
        where=where,
        hint=f"get it from {spec.source} ({spec.licence}); give it as --data DIR",
    )


def _size(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
