"""The presets ``parity`` and ``fixed`` of the probe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from fit3d_cli.datasets.base import SegDataset
from fit3d_cli.probing.exact.depth import DepthJob
from fit3d_cli.probing.exact.frozen import DenseModel, Frozen
from fit3d_cli.probing.exact.protocol import DepthProtocol, Schedule, SegProtocol
from fit3d_cli.probing.exact.seg import SegJob
from fit3d_cli.probing.exact.training import Training, finish, train_heads
from fit3d_cli.probing.scores import Scored
from fit3d_cli.probing.split import Dataset, spread
from fit3d_cli.progress import OnEvent
from fit3d_cli.settings import ProbeSettings


def measure_exact(
    dataset: Dataset,
    models: Mapping[str, DenseModel],
    settings: ProbeSettings,
    protocol: SegProtocol | DepthProtocol,
    *,
    device: str | torch.device,
    seed: int,
    checkpoints: Path | None,
    on_step: OnEvent,
) -> Scored:
    """Train and score a head per row of ``settings.models`` as published.

    Args:
        dataset: Its kind decides the task.
        models: By name, those that the rows need, on ``device``.
        settings: Rows, bins and what differs from the published schedule.
        protocol: Of the task.
        device: Where backbones and heads run.
        seed: Of the initial weights and of all draws.
        checkpoints: Directory from which a killed run goes on; None starts anew.
        on_step: Told about every step.

    Raises:
        SettingsError: The models do not go together, or a head diverged.
        DatasetError: No labels, or labels of another size than their photo.
        ImageError: A picture cannot be read.
    """
    train, val = (spread(s, settings.max_images) for s in (dataset.train, dataset.val))
    protocol = replace(protocol, schedule=protocol.schedule.adjusted(settings))
    norm = not isinstance(protocol, DepthProtocol) or protocol.norm
    frozen = Frozen(models, device=device, norm=norm, batch=settings.backbone.batch)
    job: SegJob | DepthJob
    if isinstance(dataset, SegDataset):
        assert isinstance(protocol, SegProtocol)
        job = SegJob(dataset, train, val, frozen, protocol, device, on_step)
    else:
        assert isinstance(protocol, DepthProtocol)
        job = DepthJob(dataset, train, val, frozen, protocol, settings, device, on_step)
    choose = isinstance(protocol, DepthProtocol) and protocol.choose
    identity = _identity(dataset, models, settings, protocol, seed)
    training = Training(
        rows=tuple(settings.models), count=len(train), schedule=protocol.schedule, choose=choose,
        seed=seed, device=device, identity=identity,
        checkpoint=checkpoints / f"{identity}.safetensors" if checkpoints is not None else None,
    )  # fmt: skip
    heads = train_heads(job, frozen, training, on_step)
    measured = job.score(heads)
    finish(training)
    return Scored(measured, lambda index: job.shown(heads, index))


def _identity(
    dataset: Dataset, models: Mapping[str, DenseModel], settings: ProbeSettings,
    protocol: SegProtocol | DepthProtocol, seed: int,
) -> str:  # fmt: skip
    """Digest of all that decides the heads."""
    files = [
        [str(path.resolve()), path.stat().st_mtime_ns]
        for sample in (*dataset.train, *dataset.val)
        for path in (sample.image_path, sample.label_path)
        if path.is_file()
    ]
    chosen = settings.model_dump(mode="json", exclude={"backbone", "data", "tuned", "memory"})
    known = {name: model.identity for name, model in models.items()}
    described = json.dumps([dataset.name, files, known, chosen, repr(protocol), seed])
    return hashlib.sha256(described.encode()).hexdigest()


def describe(protocol: SegProtocol | DepthProtocol, settings: ProbeSettings) -> tuple[str, ...]:
    """What a reader of the report must know of the protocol."""
    return (*_quirks(protocol), *_schedule(protocol.schedule, settings))


def _schedule(published: Schedule, settings: ProbeSettings) -> tuple[str, ...]:
    plan = published.adjusted(settings)
    changes = [
        f"{name} {getattr(plan, name):g} instead of {getattr(published, name):g}"
        for name in ("steps", "batch", "lr", "weight_decay")
        if getattr(plan, name) != getattr(published, name)
    ]
    sizes = "pictures have the protocol's sizes: backbone.width is for preset fast"
    return (sizes, f"not the published schedule: {', '.join(changes)}") if changes else (sizes,)


def _quirks(protocol: SegProtocol | DepthProtocol) -> tuple[str, ...]:
    padding = "cut out of" if protocol.cut_padding else "left in"
    if isinstance(protocol, SegProtocol):
        return (
            f"published training: crops of {protocol.crop} px, batch statistics over the whole"
            f" batch, sliding windows of {protocol.crop} px, stride {protocol.stride}; padding"
            f" {padding} the logits",
        )
    tokens = "after" if protocol.norm else "before"
    notes = [
        f"published training: crops, rotation and colours of the dataset; tokens {tokens} the final"
        f" norm, with the first model's class token; padding {padding} the depths",
        "the published gradient loss is 0 by construction at two pictures per device: left out",
    ]
    if protocol.choose:
        notes.append("the checkpoint was chosen by abs_rel on the scored split, as published")
    return tuple(notes)
