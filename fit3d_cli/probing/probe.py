"""Linear probes of segmentation and depth: from models and a dataset to a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fit3d_cli.backbones.cache import TokenModel
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.base import DepthDataset, Sample, SegDataset
from fit3d_cli.errors import SettingsError
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.probing.assembly import PARTS
from fit3d_cli.probing.exact.frozen import DenseModel
from fit3d_cli.probing.exact.measure import describe, measure_exact
from fit3d_cli.probing.exact.protocol import DEPTH_PROTOCOLS, SEG_PROTOCOLS
from fit3d_cli.probing.examples import Predict, dense_pictures
from fit3d_cli.probing.fast import NOTE, measure_fast
from fit3d_cli.probing.scores import group_pictures
from fit3d_cli.probing.sources import is_capture, open_dataset
from fit3d_cli.probing.split import depth_range, no_labels, read_target, spread, where_valid
from fit3d_cli.probing.tasks.base import Prepared, Question, require_no_data
from fit3d_cli.progress import OnEvent, ignore
from fit3d_cli.report import Report
from fit3d_cli.settings import ProbeSettings
from fit3d_cli.statistics import make_rows


class ProbedModel(TokenModel, DenseModel, Protocol):
    """What the presets need of a backbone; ``Backbone`` is one."""

    def tokens_and_cls(self, images: Tensor, *, norm: bool = True) -> tuple[Tensor, Tensor]:
        """As ``Backbone.tokens_and_cls``."""
        ...


def probe(
    dataset: SegDataset | DepthDataset,
    models: Mapping[str, ProbedModel],
    settings: ProbeSettings,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    cache_dir: Path | None = None,
    on_step: OnEvent = ignore,
) -> Report:
    """The report of ``probe_with_heads``, which tells the rest."""
    report, _ = probe_with_heads(
        dataset, models, settings, device=device, seed=seed, cache_dir=cache_dir, on_step=on_step
    )
    return report


def probe_with_heads(
    dataset: SegDataset | DepthDataset,
    models: Mapping[str, ProbedModel],
    settings: ProbeSettings,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    cache_dir: Path | None = None,
    on_step: OnEvent = ignore,
) -> tuple[Report, Predict]:
    """Train and score linear heads on frozen features.

    Args:
        dataset: From ``open_dataset``; its kind decides the task.
        models: ``base`` and, where a row needs it, ``tuned``: backbones on ``device``.
        settings: Rows, preset, sizes and the head's schedule.
        device: Where backbones and heads run.
        seed: Of the heads' initial weights and of all draws; the same for every row.
        cache_dir: Token cache; None keeps tokens in memory only.
        on_step: Told about every step.

    Returns:
        One row per entry of ``settings.models``. Samples are in the order of the split; pictures
        without a labelled pixel are NaN there and do not count. And what the heads say of a
        scored picture, by its index.

    Raises:
        SettingsError: A row needs a model that is not given, or the settings contradict.
        DatasetError: No labels, or labels of another size than their photo.
        ImageError: A picture cannot be read.
    """
    _check(dataset, models, settings)
    needed = {name: models[name] for name in models if any(name in PARTS[row]
              for row in settings.models)}  # fmt: skip
    if settings.preset == "fast":
        how: tuple[str, ...] = (NOTE,)
        scored = measure_fast(dataset, needed, settings, device=device, seed=seed,
                              cache_dir=cache_dir, on_step=on_step)  # fmt: skip
    else:
        table = SEG_PROTOCOLS if isinstance(dataset, SegDataset) else DEPTH_PROTOCOLS
        protocol = table[settings.preset]
        how = (f"preset {settings.preset}", *describe(protocol, settings))
        scored = measure_exact(
            dataset, needed, settings, protocol, device=device, seed=seed,
            checkpoints=None if cache_dir is None else cache_dir.parent / "heads", on_step=on_step,
        )  # fmt: skip
    chosen = spread(dataset.val, settings.max_images)
    groups, grouping = group_pictures(dataset, chosen)
    rows = make_rows(scored.measured, groups=groups, seed=seed)
    count = max(figure.n for figure in rows[0].figures.values())
    task = "seg" if isinstance(dataset, SegDataset) else "depth"
    notes = (*how, *dataset.notes, *grouping)
    items = tuple(sample.name for sample in chosen)
    report = Report(task, dataset.name, rows, count, notes=notes, items=items)
    return report, scored.predict


def _check(
    dataset: SegDataset | DepthDataset, models: Mapping[str, ProbedModel], settings: ProbeSettings
) -> None:
    if not settings.models:
        raise SettingsError("no row to measure", where="--models", hint="name at least one model")
    for row in settings.models:
        for part in PARTS[row]:
            if part not in models:
                raise SettingsError(f"row {row!r} needs the {part} model", where="--models",
                                    hint=f"give it, or leave {row} out")  # fmt: skip
    if isinstance(dataset, DepthDataset):
        depth_range(dataset, settings)
    # One labelled picture of each split is looked for before hours are spent on them.
    for kind, split in (("training", dataset.train), ("scored", dataset.val)):
        chosen = spread(split, settings.max_images)
        if not any(_labelled(dataset, one, settings, scored=kind == "scored") for one in chosen):
            raise no_labels(dataset, kind)


def _labelled(
    dataset: SegDataset | DepthDataset, sample: Sample, settings: ProbeSettings, *, scored: bool
) -> bool:
    valid = where_valid(
        dataset, read_target(dataset, sample), settings, scored=scored,
        parity=settings.preset == "parity", where=sample.image_path,
    )  # fmt: skip
    return bool(valid.any())


def prepare_probe(question: Question) -> Prepared:
    """Open the dataset of a ``seg`` or ``depth`` question.

    Raises:
        UnknownNameError: It names no dataset of the task.
        DatasetError: The dataset is absent, laid out otherwise or too small.
        CaptureError: The capture is damaged.
        SettingsError: A capture, and a directory of data besides.
    """
    dataset = open_dataset(question.task, question.dataset, question.root)
    if is_capture(question.dataset):
        require_no_data(question)
    scored = spread(dataset.val, question.settings.max_images)

    heads: list[Predict] = []

    def measure(models: Mapping[str, Backbone]) -> Report:
        report, predict = probe_with_heads(
            dataset, models, question.settings,
            device=question.device, seed=question.seed, cache_dir=question.cache_dir,
            on_step=question.on_event,
        )  # fmt: skip
        heads[:] = [predict]
        return report

    def show(index: int) -> list[Shown]:
        (predict,) = heads  # of the last measurement
        return dense_pictures(dataset, scored[index], question.settings, predict(index))

    return Prepared(measure, tuple(sample.image_path for sample in scored), show)
