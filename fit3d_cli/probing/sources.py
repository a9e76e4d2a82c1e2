"""What ``fit3d probe TASK DATASET`` names: a registered dataset or an RGB-D capture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture, View
from fit3d_cli.capture.frames import stored_depth
from fit3d_cli.capture.read import read_capture
from fit3d_cli.datasets.base import (
    DATASETS,
    DepthDataset,
    Sample,
    SegDataset,
    dataset_names,
    load_dataset,
)
from fit3d_cli.errors import DatasetError, UnknownNameError
from fit3d_cli.images import read_mask, resize_depth

TRAIN_SHARE = 0.7
VAL_SHARE = 0.2
MIN_VIEWS = 10


def open_dataset(task: str, name: str, root: Path) -> SegDataset | DepthDataset:
    """Open a dataset for a task.

    Args:
        task: ``seg`` or ``depth``.
        name: A registered dataset, or for ``depth`` the directory of any RGB-D capture.
        root: Directory of the registered dataset.

    Raises:
        UnknownNameError: Neither.
        DatasetError: The directory is absent, laid out otherwise or too small.
        CaptureError: The capture is damaged.
    """
    if is_capture(name):
        if task == "depth":
            return capture_depth(read_capture(Path(name)))
        raise UnknownNameError(
            f"a capture has no labels for {task}",
            where=name,
            hint=f"name one of {', '.join(dataset_names(task))}",
        )
    return load_dataset(task, name, root)


def is_capture(name: str) -> bool:
    """Whether ``open_dataset`` takes the name as the directory of a capture."""
    return name not in DATASETS and Path(name).is_dir()


def capture_depth(capture: Capture) -> DepthDataset:
    """Split a capture's views with depth for the depth probe.

    Neighbouring frames show the same place, so the split is contiguous in the order of the
    names: the first 70 % train, the next 10 % are dropped, the last 20 % are scored. Lens
    distortion is left in: depth is given on the photo's own pixel grid, to which that of another
    camera or resolution is brought.

    Raises:
        DatasetError: Fewer than ten views have depth.
    """
    views = [view for view in capture.views if view.depth_path is not None]
    if len(views) < MIN_VIEWS:
        raise DatasetError(
            f"{len(views)} views have depth, the probe needs {MIN_VIEWS}",
            where=capture.root,
            hint="use a capture with 16-bit depth pictures",
        )
    train = views[: int(TRAIN_SHARE * len(views))]
    val = views[len(views) - int(VAL_SHARE * len(views)) :]
    notes = ["contiguous split by name: 70 % train, 10 % gap, 20 % scored"]
    if not capture.metric:
        notes.append("depths are in the capture's own unit, not metres")
    return DepthDataset(
        capture.name,
        tuple(_sample(view) for view in train),
        tuple(_sample(view) for view in val),
        metric=capture.metric,
        notes=tuple(notes),
        video=True,
        measure=_Measure({view.name: view for view in (*train, *val)}),
    )


@dataclass(frozen=True)
class _Measure:
    """Depth of the capture's views; plain data, unlike a closure."""

    views: Mapping[str, View]

    def __call__(self, sample: Sample) -> Tensor:
        view = self.views[sample.name]
        depth = stored_depth(view)
        assert depth is not None
        if view.mask_path is None:
            return depth
        mask = torch.from_numpy(read_mask(view.mask_path))
        return depth * resize_depth(mask, view.width, view.height)


def _sample(view: View) -> Sample:
    assert view.depth_path is not None
    return Sample(view.name, view.image_path, view.depth_path, view.mask_path)
