"""``probe pose onepose-lowtexture``: poses of objects by matching features to known points.

The protocol of 3DCorrEnhance: photos of the first video give features at their key points, each
with its 3D point (at most 120 000, drawn by the seed); a grid of 4 pixels on every tenth photo of
the second is matched to them by mutual nearest neighbours; PnP-RANSAC with 8 pixels; the share of
photos within 1 cm and 1 degree, 3, 5; mean over objects. One token lies on 8 pixels of the photo.
RANSAC is pycolmap's, where the publication takes OpenCV's EPnP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.onepose import LAYOUT, PoseObject, PoseQuery, read_onepose
from fit3d_cli.errors import DatasetError
from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.images import image_size
from fit3d_cli.probing.assembly import require_no_head
from fit3d_cli.probing.examples import photos_of
from fit3d_cli.probing.matching_tasks.pictures import (
    RowTokens,
    chosen_width,
    photo_item,
    require_name,
    spread,
)
from fit3d_cli.probing.matching_tasks.poses import (
    THRESHOLDS,
    estimate_pose,
    mutual_neighbours,
    pose_error,
    require_pycolmap,
)
from fit3d_cli.probing.tasks.base import TASKS, Prepared, Question, Task
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.settings import PoseSettings
from fit3d_cli.statistics import Measured, Pooled, make_rows

DATASET = "onepose-lowtexture"
_TOKEN_PIXELS = 8  # photo pixels per token of the published evaluation
_AT_ONCE = 8


def prepare(question: Question) -> Prepared:
    """Open OnePose-LowTexture.

    Raises:
        SettingsError: ``fused`` is asked for.
        UnknownNameError: Another dataset.
        DatasetError: It is absent or damaged.
        EnvironmentFault: pycolmap is not installed.
    """
    require_name(question, DATASET, LAYOUT)
    require_no_head(question.settings.models, "pose")
    objects = read_onepose(question.root, every=question.settings.pose.every)
    require_pycolmap()
    objects = _limited(objects, question.settings.max_images)

    def measure(models: Mapping[str, Backbone]) -> Report:
        return _measure(question, objects, models)

    paths = tuple(q.image for one in objects for q in one.queries)
    return Prepared(measure, paths, photos_of([(("photo", path),) for path in paths]))


def _limited(objects: tuple[PoseObject, ...], most: int) -> tuple[PoseObject, ...]:
    """At most so many queries over all objects, evenly spread."""
    numbered = [(i, query) for i, one in enumerate(objects) for query in one.queries]
    kept = [numbered[index] for index in spread(len(numbered), most)]
    chosen = [tuple(query for i, query in kept if i == number) for number in range(len(objects))]
    return tuple(
        PoseObject(one.name, one.templates, queries)
        for one, queries in zip(objects, chosen, strict=True)
        if queries
    )


def _measure(
    question: Question, objects: Sequence[PoseObject], models: Mapping[str, Backbone]
) -> Report:
    tokens = RowTokens(models, question)
    patch = next(iter(models.values())).patch_size
    correct: dict[str, list[list[bool]]] = {row: [] for row in tokens.rows}
    groups: list[int] = []
    total, done = sum(len(one.queries) for one in objects), 0
    for number, one in enumerate(objects):
        features, points = _templates(tokens, one, patch)
        for start in range(0, len(one.queries), _AT_ONCE):
            queries = one.queries[start : start + _AT_ONCE]
            grids = _grids(tokens, [query.image for query in queries], patch)
            for query, (grid, size) in zip(queries, grids, strict=True):
                for row in tokens.rows:
                    correct[row].append(
                        _within(question, grid[row], features[row], points, query, size)
                    )
                groups.append(number)
                done += 1
            question.on_event(Progress("pose: queries", done, total, one.name))
    return _report(question, objects, correct, groups, patch)


def _grids(
    tokens: RowTokens, images: Sequence[Path], patch: int
) -> list[tuple[dict[str, Tensor], tuple[int, int]]]:
    """Features of every row and the stored size of photos."""
    sizes = [image_size(path) for path in images]
    settings = tokens.question.settings
    items = [
        photo_item(
            path,
            tokens.input_size(
                width, height, chosen_width(settings, max(1, width // _TOKEN_PIXELS) * patch)
            ),
        )
        for path, (width, height) in zip(images, sizes, strict=True)
    ]
    return list(zip(tokens.grids(items), sizes, strict=True))


def _templates(tokens: RowTokens, one: PoseObject, patch: int) -> tuple[dict[str, Tensor], Tensor]:
    """Unit features of each row at the templates' key points, and ``[M, 3]`` their points."""
    known = [template.keypoints.read() for template in one.templates]
    points = torch.cat([p for _, p in known])
    if not len(points):
        raise DatasetError(
            "no key point has a 3D point", where=one.templates[0].keypoints.path.parent,
            hint="run the structure from motion again",
        )  # fmt: skip
    settings = tokens.question.settings.pose
    generator = torch.Generator().manual_seed(tokens.question.seed)
    # Drawn before features are made, so that all of an object's never lie in memory.
    kept = torch.randperm(len(points), generator=generator)[: settings.descriptors].sort().values
    chosen = torch.zeros(len(points), dtype=torch.bool)
    chosen[kept] = True
    parts: dict[str, list[Tensor]] = {row: [] for row in tokens.rows}
    at = 0
    for start in range(0, len(one.templates), _AT_ONCE):
        images = [template.image for template in one.templates[start : start + _AT_ONCE]]
        for index, (grid, size) in enumerate(_grids(tokens, images, patch), start):
            pixels = known[index][0]
            mine = pixels[chosen[at : at + len(pixels)]]
            at += len(pixels)
            for row in tokens.rows:
                parts[row].append(_features(grid[row], mine, size))
    return {row: torch.cat(made) for row, made in parts.items()}, points[chosen]


def _features(grid: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    places = pixels / torch.tensor(size, dtype=pixels.dtype)
    return normalize(interpolate(grid, places.to(grid.device, torch.float32)), dim=-1)


def _within(
    question: Question, grid: Tensor, features: Tensor, points: Tensor, query: PoseQuery,
    size: tuple[int, int],
) -> list[bool]:  # fmt: skip
    """Whether the estimated pose keeps each of the thresholds."""
    settings: PoseSettings = question.settings.pose
    y, x = torch.meshgrid(
        torch.arange(0, size[1], settings.stride), torch.arange(0, size[0], settings.stride),
        indexing="ij",
    )  # fmt: skip
    pixels = torch.stack([x, y], dim=-1).flatten(0, 1).double()
    here, there = mutual_neighbours(_features(grid, pixels, size), features)
    pose = estimate_pose(
        pixels[here], points[there], query.K, size,
        inlier=settings.inlier, trials=settings.trials, seed=question.seed,
    )  # fmt: skip
    if pose is None:
        return [False] * len(THRESHOLDS)
    degrees, centimetres = pose_error(pose, query.pose)
    return [degrees < limit and centimetres < limit for limit in THRESHOLDS]


def _report(
    question: Question, objects: Sequence[PoseObject], correct: Mapping[str, list[list[bool]]],
    groups: Sequence[int], patch: int,
) -> Report:  # fmt: skip
    counts = torch.tensor([len(one.queries) for one in objects], dtype=torch.float64)
    # Each object counts once, and as often as it is drawn: a ratio of sums of 1 / its photos.
    weight = 1 / counts[torch.tensor(list(groups))]
    measured = {
        row: Measured(
            pooled={
                f"{limit}cm {limit}deg": Pooled(
                    torch.stack(
                        [torch.tensor([one[k] for one in table]).double() * weight, weight], dim=1
                    ),
                    lambda total: total[..., 0] / total[..., 1],
                )
                for k, limit in enumerate(THRESHOLDS)
            }
        )
        for row, table in correct.items()
    }
    settings = question.settings.pose
    return Report(
        "pose", DATASET, make_rows(measured, groups=groups, seed=question.seed),
        count=len(groups), over="photos",
        notes=(
            f"zero-shot: last-block tokens at {settings.stride} px grid points, mutual nearest"
            f" neighbours, pycolmap's PnP-RANSAC with {settings.inlier:g} px; a photo without a"
            " pose counts as wrong",
            f"mean over {len(objects)} objects, which are resampled whole",
        ),
        items=tuple(f"{one.name}/{q.image.name}" for one in objects for q in one.queries),
    )  # fmt: skip


TASKS.add(
    "pose",
    Task(
        summary="object pose by feature matching and PnP: cm-degree accuracy (OnePose-LowTexture)",
        datasets=lambda: [DATASET],
        prepare=prepare,
        uses=frozenset({"pose"}),
    ),
)
