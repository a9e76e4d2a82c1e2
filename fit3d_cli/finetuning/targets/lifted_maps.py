"""A teacher's tokens averaged into the Gaussians in their own channels; no decoder, no basis.

Every Gaussian takes the mean of the tokens that it contributes to, ``f = (A^T y) / (A^T 1)`` with
the blending weights A pooled over each token's patch (the weighted average of LUDVIG and Occam's
LGS), and the target is what it shows: ``(A f) / (A 1)``, the mean token where something is hit.
Dividing by the coverage keeps the length of tokens at the rim of the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.finetuning.targets.archive_maps import camera_weights
from fit3d_cli.finetuning.targets.cache import Made, ensure
from fit3d_cli.finetuning.targets.find import SceneTargets
from fit3d_cli.finetuning.targets.novel import novel_cameras
from fit3d_cli.finetuning.targets.teacher import teacher_tokens
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import Scene
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.weights import TokenWeights
from fit3d_cli.tensorfile import MODEL_LIMITS, open_tensors
from fit3d_cli.tensorfile.overflow import Kept, KeptTable, Overflow

_CHANNELS = 64  # averaged at a time: N x 64 numbers are in memory
_UNSEEN = 1e-6  # summed weight below which no token tells what a Gaussian is
_PARTS = ("offsets", "cols", "vals")

WeightsOf = Callable[[int], TokenWeights]


def relift(
    scenes: list[SceneTargets],
    teacher: Backbone,
    directory: Path,
    step: int,
    settings: FinetuneSettings,
    device: torch.device | str,
    on_event: OnEvent,
) -> list[SceneTargets]:
    """Average a teacher's tokens into all scenes again and keep the maps of this step.

    A file of the same step and teacher that is whole is kept, so that a resumed training finds
    its targets. The blending weights are computed once and lie in the cache.

    Args:
        scenes: Prepared scenes.
        teacher: In evaluation mode, on its device.
        directory: Where the maps go; the caller removes it.
        step: Of the training; part of the files' names.
        settings: What to lift.
        device: Where Gaussians are splatted.
        on_event: Told about progress.

    Returns:
        The scenes with the new maps.

    Raises:
        WeightsError: The teacher's tokens are not finite.
        StorageError: The disk refused.
    """
    factor, lifted = settings.targets.upsample, []
    for targets in scenes:
        path = directory / f"step-{step:08d}-{targets.digest[:16]}.safetensors"
        key = f"{targets.digest} {teacher.identity} {factor} {targets.places}"
        relift_one(targets, teacher, factor, path, key, device, on_event, keep=True)
        lifted.append(replace(targets, path=path, kind="relifted"))
    return lifted


def relift_one(
    targets: SceneTargets,
    teacher: Backbone,
    factor: int,
    path: Path,
    key: str,
    device: torch.device | str,
    on_event: OnEvent,
    *,
    keep: bool,
) -> None:
    """Average a teacher's tokens into one scene, unless the file is there.

    Args:
        targets: Which scene, with its rendered views.
        teacher: In evaluation mode, on its device.
        factor: Refinement of the token grid by the photo.
        path: Where the maps go.
        key: What decides them.
        device: Where Gaussians are splatted.
        on_event: Told about progress.
        keep: Whether the blending weights stay in the cache for the next time.

    Raises:
        WeightsError: The teacher's tokens are not finite.
        StorageError: The disk refused.
    """

    def make() -> Made:
        scene = read_archive(targets.archive, features=False, sh=False).to(device)
        overflow = Overflow(targets.folder)
        with _token_weights(targets, scene, factor, overflow, on_event, keep=keep) as weights_of:
            found = teacher_tokens(targets, teacher, targets.train, factor, overflow, on_event)
            return _average(targets, weights_of, *found, len(scene.gaussians), device, overflow,
                            on_event), {}  # fmt: skip

    ensure(path, key, make)


def _average(
    targets: SceneTargets,
    weights_of: WeightsOf,
    tokens: list[Kept],
    trust: list[Kept],
    count: int,
    device: torch.device | str,
    overflow: Overflow,
    on_event: OnEvent,
) -> KeptTable:
    """Tokens ``[f h, f w, C]`` of the training views to maps of all photos and rendered views.

    A token contributes as much as its pixels may be used (``trust``); Gaussians that no trusted
    token sees count as not being there.
    """
    total, channels = len(targets.views) + targets.novel, tokens[0].shape[-1]
    stage = f"{targets.name}: averaging"
    column = torch.zeros(count, 1, device=device)
    for row, view in enumerate(targets.train):
        weights_of(view).apply_t(trust[row].get()[..., None].to(device), column)
    seen = column > _UNSEEN
    inverse = torch.where(seen, 1 / column.clamp_min(_UNSEEN), 0.0)
    grid, known = targets.source.grid, seen.float()
    hits = [_pooled(weights_of(i).apply(known), grid) for i in range(total)]
    out = []
    for hit in hits:
        empty = torch.zeros(*grid, channels + 1, dtype=torch.float16)
        empty[..., -1:] = hit.half().cpu()
        out.append(overflow.keep(empty))
    steps, done = -(-channels // _CHANNELS) * (len(targets.train) + total), 0
    for begin in range(0, channels, _CHANNELS):
        end = min(begin + _CHANNELS, channels)
        some, features = slice(begin, end), torch.zeros(count, end - begin, device=device)
        for row, view in enumerate(targets.train):
            on_event(Progress(stage, done, steps))
            codes = tokens[row].get()[..., some].to(device).float()
            codes *= trust[row].get()[..., None].to(device)
            weights_of(view).apply_t(codes, features)
            done += 1
        features *= inverse
        for i, hit in enumerate(hits):
            on_event(Progress(stage, done, steps))
            shown = _pooled(weights_of(i).apply(features), grid)
            shown = torch.where(hit > _UNSEEN, shown / hit.clamp_min(_UNSEEN), 0.0)
            whole = out[i].get()
            whole[..., some] = shown.half().cpu()
            out[i].set(whole)
            done += 1
    on_event(Progress(stage, steps, steps))
    views = len(targets.views)
    return KeptTable({f"v{i}" if i < views else f"n{i - views}": out[i] for i in range(total)})


def _pooled(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[f h, f w, c]`` to the mean of each token, ``[h, w, c]``."""
    rows, columns, channels = maps.shape
    if (rows, columns) == grid:
        return maps
    return maps.reshape(grid[0], rows // grid[0], grid[1], columns // grid[1], channels).mean(
        (1, 3)
    )


@contextmanager
def _token_weights(
    targets: SceneTargets,
    scene: Scene,
    factor: int,
    overflow: Overflow,
    on_event: OnEvent,
    *,
    keep: bool,
) -> Iterator[WeightsOf]:
    """The blending weights of every photo and rendered view on the refined grid, from disk."""
    rows, columns = (factor * side for side in targets.source.grid)
    cameras, device = all_cameras(targets), scene.gaussians.means.device

    def compute() -> Made:
        tensors: dict[str, Kept] = {}
        for index in range(len(cameras)):
            on_event(Progress(f"{targets.name}: token weights", index, len(cameras)))
            made = camera_weights(scene, cameras[index], (rows, columns))
            for part, values in zip(_PARTS, (made.row_offsets, made.cols, made.vals), strict=True):
                tensors[f"{part}.{index}"] = overflow.keep(values.cpu())
        on_event(Progress(f"{targets.name}: token weights", len(cameras), len(cameras)))
        return KeptTable(tensors), {}

    def of(read: Callable[[str], Tensor]) -> WeightsOf:
        def weights(index: int) -> TokenWeights:
            offsets, cols, vals = (read(f"{part}.{index}").to(device) for part in _PARTS)
            return TokenWeights(rows, columns, len(scene.gaussians), offsets, cols, vals)

        return weights

    if not keep:
        yield of(compute()[0].__getitem__)
        return
    path = targets.cached("weights", factor, targets.places)
    ensure(path, path.stem, compute)
    with open_tensors(path, limits=MODEL_LIMITS) as file:
        yield of(file.read)


def all_cameras(targets: SceneTargets) -> Cameras:
    """Those of the photos, then those of the rendered views."""
    if targets.pictures is None:
        return targets.cameras
    return stack_cameras([targets.cameras, novel_cameras(targets.pictures, targets.source)])
