"""What a verb would take: time, memory, disk and downloads, for ``--dry-run``.

A simple model (``_cost.py``), not a measurement of the job. On a GPU no time is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit3d_cli.commands._cost import BASELINE, REFERENCE_RATE, VIT_SHARE, LiftJob, Machine
from fit3d_cli.commands._watch import duration
from fit3d_cli.errors import size_text
from fit3d_cli.finetuning.preflight import FinetuneSizes, averages_of, trained_of

if TYPE_CHECKING:
    from fit3d_cli.backbones.facts import ModelFacts
    from fit3d_cli.capture.sources.find import Scan
    from fit3d_cli.commands._options import Run
    from fit3d_cli.settings import FinetuneSettings, LiftSettings, ModelSettings

START = 6.0  # importing, loading


@dataclass(frozen=True)
class Estimate:
    """What it would take.

    Attributes:
        seconds: Wall time; None where it is not known.
        memory: Bytes at the peak.
        disk: Bytes that stay.
        download: Bytes to fetch first.
        parts: Seconds of each stage.
        writes: What would be written.
        kept: What is finished already and would be kept.
        notes: What the figures leave out.
    """

    seconds: float | None
    memory: int
    disk: int
    download: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)
    writes: tuple[Path, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def told(self, workspace: Path) -> dict[str, str]:
        """Lines of the table."""
        from fit3d_cli.device import available_memory
        from fit3d_cli.preflight import free_disk

        free, memory = free_disk(workspace), available_memory()
        lines = {}
        if self.seconds is not None:
            shares = ", ".join(f"{k} {duration(v)}" for k, v in self.parts.items() if v >= 0.05)
            lines["time"] = f"about {duration(self.seconds)}" + (f" ({shares})" if shares else "")
        lines["memory"] = _against(self.memory, memory)
        lines["disk"] = _against(self.disk, free)
        if self.download:
            lines["download"] = f"about {size_text(self.download)}"
        if self.writes:
            more = f" and {len(self.writes) - 1} more" if len(self.writes) > 1 else ""
            lines["writes"] = f"{self.writes[0]}{more}"
        if self.kept:
            lines["finished"] = f"{', '.join(self.kept)}: kept if photos and weights are the same"
        for number, note in enumerate(self.notes, 1):
            lines["note" if number == 1 else f"note {number}"] = note
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "seconds": self.seconds,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "download_bytes": self.download,
            "parts": dict(self.parts),
            "writes": list(self.writes),
            "finished": list(self.kept),
            "notes": list(self.notes),
        }


def estimate_lift(run: Run, settings: LiftSettings, scans: Sequence[Scan]) -> Estimate:
    """What lifting ``scans`` would take.

    Args:
        run: The call.
        settings: Of the verb.
        scans: What was found. Captures are read; what has to be unpacked or posed first is
            counted by its photos where they are at hand, else left out and said so.

    Raises:
        Fit3dError: A capture cannot be read, or there is no such backbone.
    """
    from fit3d_cli.workspace import Workspace

    place = Workspace(run.workspace)
    model = _model(settings.backbone)
    machine = Machine.of(run.device)
    parts: dict[str, float] = {}
    kept, writes, notes = [], [], []
    memory, disk = BASELINE, 0
    for scan in scans:
        views = _views(scan, settings, place)
        if views is None:
            notes.append(f"{scan.name}: its frames are not counted before they are chosen")
            continue
        target = place.scene_path(scan.name)
        if _is_kept(target, settings, run.seed):
            kept.append(scan.name)
            continue
        writes.append(target)
        job = LiftJob.of(views, settings, model)
        for stage, seconds in job.seconds(machine).items():
            parts[stage] = parts.get(stage, 0.0) + seconds
        memory = max(memory, job.whole_memory())
        disk += job.disk()
        if scan.source:
            notes.append(f"{scan.name}: the time to find its poses is not counted")
    return Estimate(
        _total(parts, machine), memory, disk, _download(model), parts, tuple(writes), tuple(kept),
        (*_said(model, machine), *notes),
    )  # fmt: skip


def estimate_finetune(run: Run, settings: FinetuneSettings, archives: Sequence[Path]) -> Estimate:
    """What tuning on ``archives`` would take.

    Args:
        run: The call.
        settings: Of the verb.
        archives: The scenes.

    Raises:
        Fit3dError: An archive is damaged, or there is no such backbone.
    """
    from fit3d_cli.archive import describe
    from fit3d_cli.settings import ModelSettings
    from fit3d_cli.workspace import Workspace

    views = tokens = dim = 0
    for path in archives:
        told = describe(path)
        source = told["source"]
        views += told["views"] - told["heldout_views"]
        dim = max(dim, told["feature_dim"])
        columns, rows = (source[side] // source["patch_size"] for side in ("width", "height"))
        tokens = max(tokens, columns * rows)
    name, weights = settings.backbone.name, settings.backbone.weights
    if not name:
        name, known = Workspace(run.workspace).backbone_of(
            source["weights_sha256"], source["backbone"]
        )
        weights = weights or known
    model = _model(ModelSettings(name=name, weights=weights))
    machine = Machine.of(run.device)
    batch = settings.batch
    steps = -(-views // batch) * settings.epochs
    steps = min(steps, settings.max_steps) if settings.max_steps else steps
    # Forward and twice that backward.
    work = 3 * model.flops(tokens) * batch / (REFERENCE_RATE * VIT_SHARE)
    parts = {"targets": machine.wall(views * tokens * 2e-5), "finetune": machine.wall(steps * work)}
    sizes = FinetuneSizes(
        params=model.params, trained=trained_of(settings, model.params), channels=model.dim,
        depth=model.depth, tokens=tokens, views=views, dim=dim,
        archive=max(path.stat().st_size for path in archives),
        batch=settings.micro_batch or batch, averages=averages_of(settings),
    )  # fmt: skip
    memory, disk = BASELINE + 4 * model.params + sizes.memory(), sizes.disk()
    target = run.workspace / "models" / settings.name
    return Estimate(
        _total(parts, machine), memory, disk, _download(model), parts, (target,),
        notes=(f"{steps} steps of {batch} views", *_said(model, machine)),
    )  # fmt: skip


def _model(backbone: ModelSettings) -> ModelFacts:
    from fit3d_cli.backbones.facts import model_facts

    return model_facts(backbone.name, backbone.weights)


def _views(scan: Scan, settings: LiftSettings, place: Any) -> list[tuple[int, int]] | None:
    """``(width, height)`` of each view that would be used; None where they cannot be counted."""
    from fit3d_cli.capture.photos import SUFFIXES
    from fit3d_cli.capture.read import read_capture, spread
    from fit3d_cli.errors import Fit3dError
    from fit3d_cli.images import image_size

    if not scan.source:
        capture = spread(read_capture(scan.path, settings.reader, scan.name), settings.max_views)
        return [(view.width, view.height) for view in capture.views]
    if not scan.path.is_dir():
        return None
    files = sorted(f for f in scan.path.rglob("*") if f.suffix.lower() in SUFFIXES)
    limit = settings.max_views or settings.source.frames or len(files)
    try:
        return [image_size(files[0])] * min(limit, len(files)) if files else None
    except Fit3dError:
        return None


def _is_kept(path: Path, settings: LiftSettings, seed: int) -> bool:
    """Whether an archive of the same settings is there; its photos are not compared."""
    from fit3d_cli.archive import describe
    from fit3d_cli.errors import ArchiveError
    from fit3d_cli.lifting.making import recorded

    if not path.is_file():
        return False
    try:
        told = describe(path)["provenance"]
    except ArchiveError:
        return False
    return bool(told.get("settings") == recorded(settings) and told.get("seed") == seed)


def _download(model: ModelFacts) -> int:
    return model.bytes if model.where == "download" else 0


def _said(model: ModelFacts, machine: Machine) -> list[str]:
    where = {"file": "in a file", "cache": "in the cache", "download": "to be downloaded"}
    said = [
        f"{model.name}: {model.params / 1e6:.1f} M parameters, {model.licence}, weights "
        f"{where[model.where]}"
    ]
    if machine.cuda:
        said.append("times are estimated for CPUs only")
    return said


def _total(parts: Mapping[str, float], machine: Machine) -> float | None:
    if machine.cuda:
        return None
    return START + sum(parts.values()) if parts else 0.0


def _against(need: int, free: int | None) -> str:
    told = f"about {size_text(need)}"
    if free is None:
        return told
    verdict = "" if need < free else ": NOT ENOUGH"
    return f"{told} of {size_text(free)} free{verdict}"
