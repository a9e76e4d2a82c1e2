"""The pictures of a split: tokens of every model, and the true labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache, TokenItem, TokenModel, image_digest
from fit3d_cli.datasets.base import DepthDataset, Sample, SegDataset
from fit3d_cli.errors import DatasetError
from fit3d_cli.images import image_size, read_image, resize_image
from fit3d_cli.probing.features import Features, TokenStore
from fit3d_cli.probing.training import Pixels, draw_pixels
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import ProbeSettings

PARTS = {"base": ("base",), "tuned": ("tuned",), "concat": ("base", "tuned")}


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
        """Features of a row of the report: ``base``, ``tuned`` or ``concat``."""
        return Features(tuple(self.stores[part] for part in PARTS[row]), with_cls)


def open_split(
    label: str,
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
        samples: Its pictures; ``settings.max_images`` of them are used.
        models: By name.
        settings: Size and batch of the backbone.
        device: Where the models are.
        cache_dir: Token cache, or None.
        on_step: Told about every batch.

    Raises:
        ImageError: A picture cannot be read.
    """
    chosen = _spread(samples, settings.max_images)
    digests = [image_digest(sample.image_path) for sample in chosen]
    sizes = [image_size(sample.image_path) for sample in chosen]
    stores = {}
    for name, model in models.items():
        stage = f"{name}: {label} tokens"
        items = [
            _item(sample, digest, model.input_size(*size, settings.backbone.width))
            for sample, digest, size in zip(chosen, digests, sizes, strict=True)
        ]
        stores[name] = TokenStore(
            model, items,
            cache=TokenCache(cache_dir) if cache_dir is not None else None,
            batch=settings.backbone.batch,
            device=device,
            on_step=partial(_tell, on_step, stage),
        )  # fmt: skip
    return Split(chosen, stores)


def _tell(on_step: OnEvent, stage: str, done: int, total: int) -> None:
    on_step(Progress(stage, done, total))


def _item(sample: Sample, digest: str, size: tuple[int, int]) -> TokenItem:
    return TokenItem(digest, size, lambda: resize_image(read_image(sample.image_path), *size))


def _spread(samples: tuple[Sample, ...], limit: int) -> tuple[Sample, ...]:
    """At most ``limit`` samples (0 = all), evenly spread over the split."""
    if not limit or limit >= len(samples):
        return samples
    return tuple(samples[(2 * i + 1) * len(samples) // (2 * limit)] for i in range(limit))


def read_pixels(
    dataset: SegDataset | DepthDataset,
    samples: Sequence[Sample],
    settings: ProbeSettings,
    generator: torch.Generator,
    on_step: OnEvent,
) -> list[Pixels | None]:
    """Labelled pixels of the training pictures; None for a picture that has none.

    Raises:
        DatasetError: No picture has any.
    """
    pixels = []
    for number, sample in enumerate(samples, start=1):
        labels, valid = read_truth(dataset, sample, settings)
        pixels.append(draw_pixels(labels, valid, generator))
        on_step(Progress("labels", number, len(samples)))
    if not any(entry is not None for entry in pixels):
        raise DatasetError("no training picture has a labelled pixel", where=dataset.name,
                           hint="check the labels and the depth range")  # fmt: skip
    return pixels


def read_truth(
    dataset: SegDataset | DepthDataset, sample: Sample, settings: ProbeSettings
) -> tuple[Tensor, Tensor]:
    """``[H, W]`` labels (classes or metres) and where they count.

    Raises:
        DatasetError: The labels are not of the photo's size.
    """
    if isinstance(dataset, SegDataset):
        labels = dataset.labels(sample)
        valid = labels != dataset.ignore_index
    else:
        labels = dataset.depth(sample)
        valid = (labels >= settings.min_depth) & (labels <= settings.max_depth)
    width, height = image_size(sample.image_path)
    if tuple(labels.shape) != (height, width):
        raise DatasetError(
            f"labels of {labels.shape[1]}x{labels.shape[0]} for a photo of {width}x{height}",
            where=sample.label_path,
            hint="labels must lie on the photo's own pixel grid",
        )
    return labels, valid
