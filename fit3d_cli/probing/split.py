"""The pictures of a split as the probes see them: photos, true labels, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel, image_digest
from fit3d_cli.backbones.token_store import TokenStore
from fit3d_cli.datasets.base import DepthDataset, Sample, SegDataset
from fit3d_cli.datasets.boxes import kb_box
from fit3d_cli.errors import DatasetError, SettingsError
from fit3d_cli.images import image_size, read_image, resize_image
from fit3d_cli.probing.features import Features
from fit3d_cli.probing.training import PixelStore, draw_pixels
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import ProbeSettings

Dataset = SegDataset | DepthDataset


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        samples: The pictures that are used.
        stores: Their tokens by model name.
    """

    samples: tuple[Sample, ...]
    stores: Mapping[str, TokenStore]

    def features(self, row: str, *, with_cls: bool) -> Features:
        """Features of a row of the report."""
        return Features(row, self.stores, with_cls)


def open_split(
    label: str,
    dataset: Dataset,
    samples: tuple[Sample, ...],
    models: Mapping[str, TokenModel],
    settings: ProbeSettings,
    *,
    device: str | torch.device,
    cache_dir: Path | None,
    on_step: OnEvent,
) -> Split:
    """Compute (or read) the tokens of a split with every model.

    Args:
        label: What progress calls the split.
        dataset: Where it is from.
        samples: Its pictures.
        models: By name.
        settings: Size and batch of the backbone.
        device: Where the models are.
        cache_dir: Token cache, or None.
        on_step: Told about every batch.

    Raises:
        ImageError: A picture cannot be read.
    """
    recipe = "kb-crop" if _cut_to_kitti(dataset) else ""
    digests = [image_digest(sample.image_path, recipe) for sample in samples]
    sizes = [photo_size(dataset, sample) for sample in samples]
    stores = {}
    for name, model in models.items():
        stage = f"{name}: {label} tokens"
        items = [
            _item(dataset, sample, digest, model.input_size(*size, settings.backbone.width))
            for sample, digest, size in zip(samples, digests, sizes, strict=True)
        ]
        stores[name] = TokenStore(
            model, items,
            cache=TokenCache(cache_dir) if cache_dir is not None else None,
            batch=settings.backbone.batch,
            device=device,
            on_step=partial(_tell, on_step, stage),
            # Two splits and all models, and a quarter for the labels.
            memory=3 * (settings.memory << 20) // (8 * len(models)),
        )  # fmt: skip
    return Split(samples, stores)


def _tell(on_step: OnEvent, stage: str, done: int, total: int) -> None:
    on_step(Progress(stage, done, total))


def _item(dataset: Dataset, sample: Sample, digest: str, size: tuple[int, int]) -> TokenItem:
    return TokenItem(digest, size, lambda: resize_image(read_photo(dataset, sample), *size))


def spread(samples: tuple[Sample, ...], limit: int) -> tuple[Sample, ...]:
    """At most ``limit`` samples (0 = all), evenly spread over the split."""
    if not limit or limit >= len(samples):
        return samples
    return tuple(samples[(2 * i + 1) * len(samples) // (2 * limit)] for i in range(limit))


def read_photo(dataset: Dataset, sample: Sample) -> NDArray[np.uint8]:
    """``[H, W, 3]`` uint8 photo, cut where the dataset is always cut.

    Raises:
        ImageError: It cannot be read.
        DatasetError: It is smaller than the cut.
    """
    photo = read_image(sample.image_path)
    if not _cut_to_kitti(dataset):
        return photo
    box = kb_box(*photo.shape[:2], where=str(sample.image_path))
    return np.ascontiguousarray(photo[box.slices])


def photo_size(dataset: Dataset, sample: Sample) -> tuple[int, int]:
    """``(width, height)`` of what ``read_photo`` gives, from the header only.

    Raises:
        ImageError: It cannot be read.
        DatasetError: It is smaller than the cut.
    """
    width, height = image_size(sample.image_path)
    if not _cut_to_kitti(dataset):
        return width, height
    box = kb_box(height, width, where=str(sample.image_path))
    return box.right - box.left, box.bottom - box.top


def read_target(dataset: Dataset, sample: Sample) -> Tensor:
    """``[H, W]`` classes (int64) or metres (float32) on the grid of ``read_photo``.

    Raises:
        DatasetError: The labels are not of the photo's size.
    """
    target = dataset.labels(sample) if isinstance(dataset, SegDataset) else dataset.depth(sample)
    width, height = image_size(sample.image_path)
    if tuple(target.shape) != (height, width):
        raise DatasetError(
            f"labels of {target.shape[1]}x{target.shape[0]} for a photo of {width}x{height}",
            where=sample.label_path,
            hint="labels must lie on the photo's own pixel grid",
        )
    if not _cut_to_kitti(dataset):
        return target
    return target[kb_box(height, width, where=str(sample.image_path)).slices]


def _cut_to_kitti(dataset: Dataset) -> bool:
    return isinstance(dataset, DepthDataset) and dataset.kb_crop


def depth_range(dataset: DepthDataset, settings: ProbeSettings) -> tuple[float, float]:
    """Nearest and farthest depth of bins and scores, metres: as set, else the dataset's.

    Raises:
        SettingsError: It is empty.
    """
    nearest = settings.min_depth or dataset.nearest
    farthest = settings.max_depth or dataset.farthest
    if nearest >= farthest:
        raise SettingsError(
            f"min_depth {nearest:g} is not below max_depth {farthest:g}",
            where="probe.min_depth",
            hint="give a range",
        )
    return nearest, farthest


def where_valid(
    dataset: Dataset, target: Tensor, settings: ProbeSettings, *, scored: bool,
    parity: bool = False, where: str | Path = "",
) -> Tensor:  # fmt: skip
    """``[H, W]`` bool: pixels that are learnt from, or that are scored.

    Args:
        dataset: Where the target is from.
        target: From ``read_target``.
        settings: Range of depths.
        scored: Restrict to the region that the protocol scores.
        parity: The region as published.
        where: What a message names instead of the dataset.

    Raises:
        DatasetError: The picture is smaller than the scored region.
    """
    if isinstance(dataset, SegDataset):
        return target != dataset.ignore_index
    nearest, farthest = depth_range(dataset, settings)
    # Both ends are outside, as in the published evaluation.
    valid = (target > nearest) & (target < farthest)
    if scored:
        valid &= dataset.scored_region(*target.shape, parity=parity, where=where)
    return valid


def read_pixels(
    dataset: Dataset,
    samples: Sequence[Sample],
    settings: ProbeSettings,
    generator: torch.Generator,
    folder: Path | None,
    on_step: OnEvent,
) -> PixelStore:
    """Labelled pixels of the training pictures; None for a picture that has none."""
    pixels = PixelStore(settings.memory << 18, folder)
    for number, sample in enumerate(samples, start=1):
        target = read_target(dataset, sample)
        valid = where_valid(dataset, target, settings, scored=False)
        pixels.add(draw_pixels(target, valid, generator))
        on_step(Progress("labels", number, len(samples)))
    return pixels


def no_labels(dataset: Dataset, kind: str) -> DatasetError:
    """The error for a split without a single labelled pixel."""
    return DatasetError(
        f"no {kind} picture has a labelled pixel",
        where=dataset.name,
        hint="check the labels and the depth range",
    )
