"""Everything that a training reads of a scene, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import SettingsError
from fit3d_cli.finetuning.targets.archive_maps import archive_maps
from fit3d_cli.finetuning.targets.cache import Made, ensure
from fit3d_cli.finetuning.targets.depths import check_depths, depth_maps
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.finetuning.targets.lifted_maps import relift_one
from fit3d_cli.finetuning.targets.novel import novel_cameras, novel_views
from fit3d_cli.finetuning.targets.teacher import denoised_maps
from fit3d_cli.progress import OnEvent
from fit3d_cli.scene import Scene
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.tensorfile.overflow import Overflow
from fit3d_cli.workspace import Workspace


def prepare_targets(
    targets: SceneTargets,
    settings: FinetuneSettings,
    base: Backbone,
    place: Workspace,
    device: torch.device | str,
    on_event: OnEvent,
    *,
    depths: bool,
) -> SceneTargets:
    """Make the maps of a scene, its rendered views and its depths, unless they are cached.

    Gaussians are in memory only meanwhile.

    Args:
        targets: A scene that was found.
        settings: Which maps.
        base: The frozen backbone in evaluation mode, on its device.
        place: Workspace with the cache.
        device: Where Gaussians are splatted.
        on_event: Told about each view.
        depths: Whether correspondences will be asked for.

    Returns:
        The scene with the paths of what was made.

    Raises:
        SettingsError: The settings contradict each other or the capture.
        WeightsError: The base's tokens are not finite.
        StorageError: The disk refused.
    """
    wanted = settings.targets
    check_targets(settings, targets.source.patch_size)
    if depths:
        check_depths(targets, settings.pairs.depth)

    @cache
    def scene() -> Scene:
        return read_archive(targets.archive).to(device)

    made = replace(
        targets, folder=place.cache_dir / "targets", kind=wanted.source,
        min_alpha=settings.min_alpha,
    )  # fmt: skip
    if wanted.novel_views:
        path = made.cached("novel", wanted.novel_views)
        facts = ensure(
            path, path.stem, lambda: novel_views(made, scene(), wanted.novel_views, on_event)
        )
        made = replace(made, novel=int(facts["novel"]), pictures=path)
    if depths:
        path = made.cached("depths", settings.pairs.depth)
        ensure(path, path.stem, lambda: depth_maps(made, scene(), settings.pairs.depth, on_event))
        made = replace(made, depths=path)
    return _maps(made, settings, base, scene, device, on_event)


def check_targets(settings: FinetuneSettings, patch_size: int) -> None:
    """Whether the settings of the targets fit together.

    Args:
        settings: Of the training.
        patch_size: Pixels per token side.

    Raises:
        SettingsError: They do not; the message says what to change.
    """
    wanted = settings.targets
    if wanted.upsample > 1 and wanted.source != "relifted":
        why = "archive features have no" if wanted.source == "archive" else "nothing is lifted to a"
        raise SettingsError(
            f"{why} finer grid",
            where="finetune.targets.upsample",
            hint="use finetune.targets.source = relifted",
        )
    if patch_size % wanted.upsample:
        fitting = ", ".join(str(n) for n in range(1, 5) if patch_size % n == 0)
        raise SettingsError(
            f"{wanted.upsample} does not divide the patch of {patch_size} pixels",
            where="finetune.targets.upsample",
            hint=f"use {fitting}",
        )
    if wanted.novel_views and wanted.source == "denoised":
        raise SettingsError(
            "a target without geometry has no views between the photos",
            where="finetune.targets.novel_views",
            hint="use 0, or finetune.targets.source = archive or relifted",
        )
    if wanted.relift_every and wanted.source != "relifted":
        raise SettingsError(
            f"source = {wanted.source} has no teacher to lift again",
            where="finetune.targets.relift_every",
            hint="use 0, or finetune.targets.source = relifted",
        )


def _maps(
    targets: SceneTargets,
    settings: FinetuneSettings,
    base: Backbone,
    scene: Callable[[], Scene],
    device: torch.device | str,
    on_event: OnEvent,
) -> SceneTargets:
    """Make the maps; the rendered views are known."""
    wanted = settings.targets
    parts: list[object] = [targets.kind, targets.places]
    if targets.kind == "relifted":
        parts += [base.identity, wanted.upsample]
    elif targets.kind == "denoised":
        parts += [base.identity, wanted.shifts]
    path = targets.cached("maps", *parts)
    if targets.kind == "relifted":
        keep = wanted.relift_every > 0
        relift_one(targets, base, wanted.upsample, path, path.stem, device, on_event, keep=keep)
        return replace(targets, path=path)

    def make() -> Made:
        if targets.kind == "denoised":
            overflow = Overflow(targets.folder)
            return denoised_maps(targets, base, wanted.shifts, overflow, on_event)
        novel = None
        if targets.pictures is not None:
            novel = novel_cameras(targets.pictures, targets.source)
        return archive_maps(targets, scene(), novel, on_event)

    ensure(path, path.stem, make)
    return replace(targets, path=path)
