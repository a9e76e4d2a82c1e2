"""Pictures of single scored items, for the report's page: photo, truth and what each row says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.datasets.base import Sample, SegDataset
from fit3d_cli.errors import ImageError
from fit3d_cli.images import read_image, resize_image
from fit3d_cli.pages.pictures import Shown, fitted
from fit3d_cli.probing.split import Dataset, read_photo, read_target, where_valid
from fit3d_cli.settings import ProbeSettings

# Index of a scored item to ``[H, W]`` classes or metres by row; empty if nothing is scored there.
Predict = Callable[[int], Mapping[str, Tensor]]
Show = Callable[[int], Sequence[Shown]]
_SIDE = 480  # twice what a page shows, for dense displays


def photos_of(paths: Sequence[Sequence[tuple[str, Path]]]) -> Show:
    """Captions and photos of items; a photo that went missing is left out."""

    def show(index: int) -> list[Shown]:
        made = []
        for caption, path in paths[index]:
            with suppress(ImageError):
                photo = read_image(path)
                size = fitted(photo.shape[1], photo.shape[0], _SIDE)
                made.append(Shown(caption, viz.to_uint8(resize_image(photo, *size)), photo=True))
        return made

    return show


def dense_pictures(
    dataset: Dataset, sample: Sample, settings: ProbeSettings, predicted: Mapping[str, Tensor]
) -> list[Shown]:
    """Photo, truth and predictions of a picture of a segmentation or depth dataset.

    Depths share one colour scale, that of the truth.

    Args:
        dataset: Where the sample is from.
        sample: What is shown.
        settings: Range of depths.
        predicted: ``[H, W]`` by row.

    Raises:
        Fit3dError: A file cannot be read any more.
    """
    photo = read_photo(dataset, sample)
    width, height = fitted(photo.shape[1], photo.shape[0], _SIDE)
    truth = _shrunk(read_target(dataset, sample), height, width)
    maps = {row: _shrunk(one.cpu(), height, width) for row, one in predicted.items()}
    if isinstance(dataset, SegDataset):
        colours = viz.distinct_colours(len(dataset.classes))
        coloured = {row: viz.label_map(one, colours) for row, one in maps.items()}
        known = torch.where(truth == dataset.ignore_index, -1, truth)
        target = Shown("labels", viz.to_uint8(viz.label_map(known, colours)))
    else:
        valid = where_valid(dataset, truth, settings, scored=False)
        values = truth[valid]
        near, far = (
            torch.quantile(
                values.double(), torch.tensor([0.01, 0.99], dtype=torch.float64)
            ).tolist()
            if len(values)
            else (None, None)
        )
        coloured = {row: viz.depth_to_rgb(one, near=near, far=far) for row, one in maps.items()}
        target = Shown(
            "true depth", viz.to_uint8(viz.depth_to_rgb(truth, mask=valid, near=near, far=far))
        )
    return [
        Shown("photo", viz.to_uint8(resize_image(photo, width, height)), photo=True),
        target,
        *(Shown(row, viz.to_uint8(one)) for row, one in coloured.items()),
    ]


def _shrunk(values: Tensor, height: int, width: int) -> Tensor:
    """``[H, W]`` labels or depths to a smaller grid, each from the pixel nearest to it."""
    rows = ((torch.arange(height) + 0.5) * values.shape[0] / height).long()
    columns = ((torch.arange(width) + 0.5) * values.shape[1] / width).long()
    return values[rows][:, columns]
