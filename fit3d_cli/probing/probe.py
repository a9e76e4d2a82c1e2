"""``probe``: tokens once, a linear head per row, figures per picture.

Protocol: pictures are resized to a patch multiple and never cropped. Tokens are the last block's
after the final norm, for depth with the class token of the row's first model. Heads learn from
labelled pixels at the labels' own resolution; predictions are enlarged bilinearly to that
resolution and scored there. The published protocol has crops, flips, colour changes, sliding
windows and test-time flips besides; without them the tokens need computing only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fit3d_cli.backbones.cache import TokenModel
from fit3d_cli.datasets.base import DepthDataset, SegDataset
from fit3d_cli.errors import DatasetError, SettingsError
from fit3d_cli.probing.features import Features
from fit3d_cli.probing.heads import DepthHead, SegHead
from fit3d_cli.probing.losses import sig_loss
from fit3d_cli.probing.metrics import (
    confusion_matrix,
    depth_metrics,
    image_segmentation,
    mean_of,
    segmentation_metrics,
)
from fit3d_cli.probing.prediction import predict_depth, predict_labels
from fit3d_cli.probing.split import PARTS, Split, open_split, read_pixels, read_truth
from fit3d_cli.probing.training import Pixels, Plan, train_head
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.report import Report, Row
from fit3d_cli.settings import ProbeSettings

TASKS = ("seg", "depth")
# Places of this machine, and what changes no result.
_OFF_THE_RECORD: dict[str, Any] = {"data": True, "tuned": True, "backbone": {"weights", "batch"}}
_NOTES = (
    "linear head on frozen last-block tokens after the final norm; whole pictures, no"
    " augmentation, one scale",
)


def probe(
    task: str,
    dataset: SegDataset | DepthDataset,
    models: Mapping[str, TokenModel],
    settings: ProbeSettings,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    cache_dir: Path | None = None,
    on_step: OnEvent = ignore,
) -> Report:
    """Train and score linear heads on frozen features.

    Args:
        task: ``seg`` or ``depth``, matching the dataset.
        dataset: From ``open_dataset``.
        models: ``base`` and, where a row needs it, ``tuned``: backbones on ``device``.
        settings: Rows, sizes and the head's schedule.
        device: Where backbones and heads run.
        seed: Of the heads' initial weights and of all draws; the same for every row.
        cache_dir: Token cache; None keeps tokens in memory only.
        on_step: Told about every step.

    Returns:
        One row per entry of ``settings.models``. Samples are in the order of the split;
        pictures without a labelled pixel are left out of them, and of ``count``.

    Raises:
        SettingsError: A row needs a model that is not given, or the settings contradict.
        DatasetError: No labels, or labels of another size than their photo.
        ImageError: A picture cannot be read.
    """
    _check(task, dataset, models, settings)
    names = sorted({part for row in settings.models for part in PARTS[row]})
    train, val = (
        open_split(label, samples, {name: models[name] for name in names}, settings,
                    device=device, cache_dir=cache_dir, on_step=on_step)
        for label, samples in (("train", dataset.train), ("val", dataset.val))
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    pixels = read_pixels(dataset, train.samples, settings, generator, on_step)
    rows = []
    count = 0
    for row in settings.models:
        if isinstance(dataset, SegDataset):
            metrics, samples = _segment(row, dataset, train, val, pixels, settings, device, seed,
                                        on_step)  # fmt: skip
        else:
            metrics, samples = _depth(row, dataset, train, val, pixels, settings, device, seed,
                                      on_step)  # fmt: skip
        rows.append(Row(row, metrics, samples))
        count = len(next(iter(samples.values())))
    notes = dataset.notes if isinstance(dataset, DepthDataset) else ()
    changed = settings.model_dump(mode="json", exclude_defaults=True, exclude=_OFF_THE_RECORD)
    return Report(task, dataset.name, tuple(rows), count, changed, (*_NOTES, *notes))


def _check(
    task: str,
    dataset: SegDataset | DepthDataset,
    models: Mapping[str, TokenModel],
    settings: ProbeSettings,
) -> None:
    if task not in TASKS:
        raise SettingsError(f"unknown task {task!r}", where="probe",
                            hint=f"choose one of {', '.join(TASKS)}")  # fmt: skip
    if (task == "seg") != isinstance(dataset, SegDataset):
        raise SettingsError(f"{dataset.name} has no labels for {task}", where=f"probe {task}",
                            hint="choose another dataset")  # fmt: skip
    if not settings.models:
        raise SettingsError("no row to measure", where="--models", hint="name at least one model")
    for row in settings.models:
        for part in PARTS[row]:
            if part not in models:
                raise SettingsError(f"row {row!r} needs the {part} model", where="--models",
                                    hint=f"give it, or leave {row} out")  # fmt: skip
    if settings.min_depth >= settings.max_depth:
        raise SettingsError(
            f"min_depth {settings.min_depth} is not below max_depth {settings.max_depth}",
            where="probe.min_depth",
            hint="give a range",
        )


def _score(
    row: str,
    dataset: SegDataset | DepthDataset,
    val: Split,
    settings: ProbeSettings,
    score: Callable[[int, Tensor, Tensor], dict[str, float]],
    on_step: OnEvent,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Means over the scored pictures, and the figures of each."""
    scored = []
    for index, sample in enumerate(val.samples):
        labels, valid = read_truth(dataset, sample, settings)
        if bool(valid.any()):
            scored.append(score(index, labels, valid))
        on_step(Progress(f"{row}: scoring", index + 1, len(val.samples)))
    if not scored:
        raise DatasetError("no scored picture has a labelled pixel", where=dataset.name,
                           hint="check the labels and the depth range")  # fmt: skip
    return mean_of(scored), {name: tuple(s[name] for s in scored) for name in scored[0]}


def _train(
    row: str, head: nn.Module, features: Features, pixels: Sequence[Pixels | None],
    loss: Callable[[Tensor, Tensor, int], Tensor], plan: Plan, device: str | torch.device,
    generator: torch.Generator, on_step: OnEvent,
) -> None:  # fmt: skip
    def report(step: int, value: float) -> None:
        if step % 10 == 0 or step == plan.steps:
            on_step(Progress(f"{row}: head", step, plan.steps, f"loss {value:.3f}"))

    train_head(head, features, pixels, loss, plan, device=device, generator=generator,
               on_step=report)  # fmt: skip
    head.eval()


def _segment(
    row: str, dataset: SegDataset, train: Split, val: Split, pixels: Sequence[Pixels | None],
    settings: ProbeSettings, device: str | torch.device, seed: int, on_step: OnEvent,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    features = train.features(row, with_cls=False)
    classes = len(dataset.classes)
    head = SegHead(*features.statistics(), classes, generator=generator).to(device)
    # Shares of warm-up and the decay as published: 1500 of 40 000 steps, polynomial of power 1.
    plan = Plan(settings.steps, settings.batch, settings.lr, settings.weight_decay, 0.0375,
                "linear")  # fmt: skip
    _train(row, head, features, pixels,
           lambda output, target, _: nn.functional.cross_entropy(output, target),
           plan, device, generator, on_step)  # fmt: skip
    scored = val.features(row, with_cls=False)
    total = torch.zeros(classes, classes, dtype=torch.int64)

    def score(index: int, labels: Tensor, valid: Tensor) -> dict[str, float]:
        predicted = predict_labels(head, scored.grid(index).to(device), *labels.shape)
        counts = confusion_matrix(predicted.cpu(), labels, classes, dataset.ignore_index)
        total.add_(counts)
        return image_segmentation(counts)

    means, samples = _score(row, dataset, val, settings, score, on_step)
    return {**segmentation_metrics(total), **means}, samples


def _depth(
    row: str, dataset: DepthDataset, train: Split, val: Split, pixels: Sequence[Pixels | None],
    settings: ProbeSettings, device: str | torch.device, seed: int, on_step: OnEvent,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    features = train.features(row, with_cls=True)
    nearest, farthest = settings.min_depth, settings.max_depth
    channels = features.grid(0).shape[-1]
    head = DepthHead(channels, settings.bins, nearest, farthest, generator=generator).to(device)
    # Published: 12 800 of 38 400 steps of warm-up, cosine, clip 35; only the level of the
    # depth at first.
    plan = Plan(settings.steps, settings.batch, settings.lr, settings.weight_decay, 1 / 3,
                "cosine", clip=35.0)  # fmt: skip
    level_steps = min(100, settings.steps // 10)
    _train(row, head, features, pixels,
           lambda output, target, step: sig_loss(output, target, warm_up=step < level_steps),
           plan, device, generator, on_step)  # fmt: skip
    scored = val.features(row, with_cls=True)

    def score(index: int, labels: Tensor, valid: Tensor) -> dict[str, float]:
        predicted = predict_depth(head, scored.grid(index).to(device), *labels.shape)
        return depth_metrics(predicted.cpu().clamp(nearest, farthest)[valid], labels[valid])

    return _score(row, dataset, val, settings, score, on_step)
