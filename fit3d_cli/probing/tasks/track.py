"""``probe track tapvid-davis``: points followed through videos by their features alone.

TAP-Vid DAVIS with "strided" queries (every point visible in frame 0, 5, 10, ...), tracked by
nearest neighbours (``matching_tasks/tracker.py``) and scored by ``matching_tasks/track_scores.py``.
Frames are resized to 854 pixels wide, as 3DCorrEnhance does; it halves the stride of the patches
besides, which ``--set probe.backbone.width=1708`` approaches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fit3d_cli.backbones.cache import TokenItem
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.tapvid import LAYOUT, TrackedVideo, read_tapvid, strided_queries
from fit3d_cli.images import resize_image, save_png
from fit3d_cli.pages.pictures import Shown
from fit3d_cli.probing.assembly import require_no_head
from fit3d_cli.probing.matching_tasks.pictures import (
    RowTokens,
    chosen_width,
    require_name,
    spread,
)
from fit3d_cli.probing.matching_tasks.track_scores import Tracks, track_scores
from fit3d_cli.probing.matching_tasks.tracker import Tracker, TrackerRules
from fit3d_cli.probing.tasks.base import TASKS, Prepared, Question, Task
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.settings import TrackSettings
from fit3d_cli.statistics import Measured, make_rows

DATASET = "tapvid-davis"
_WIDTH = 854


def prepare(question: Question) -> Prepared:
    """Open TAP-Vid DAVIS.

    Raises:
        SettingsError: ``fused`` is asked for.
        UnknownNameError: Another dataset.
        DatasetError: It is absent or damaged.
        StorageError: Frames for the drift cannot be written.
    """
    require_name(question, DATASET, LAYOUT)
    require_no_head(question.settings.models, "track")
    everything = read_tapvid(question.root)
    videos = [everything[i] for i in spread(len(everything), question.settings.max_images)]

    def measure(models: Mapping[str, Backbone]) -> Report:
        return _measure(question, videos, models)

    return Prepared(measure, _pictures(question, videos), partial(_show, videos))


def _measure(
    question: Question, videos: Sequence[TrackedVideo], models: Mapping[str, Backbone]
) -> Report:
    tokens = RowTokens(models, question)
    chosen = question.settings.track
    rules = TrackerRules(chosen.radius / _WIDTH, chosen.temperature, chosen.anchor, chosen.visible)
    width = chosen_width(question.settings, _WIDTH)
    scores: dict[str, list[dict[str, float]]] = {row: [] for row in tokens.rows}
    sizes = set()
    for number, video in enumerate(videos):
        height, wide = video.frames.shape[1:3]
        size = tokens.input_size(wide, height, width)
        sizes.add(f"{size[0]}x{size[1]}")
        queries = strided_queries(video)
        truth = Tracks(video.points[queries.track], video.occluded[queries.track])
        starts = truth.places[torch.arange(len(queries.frame)), queries.frame]

        def seen(done: int, total: int, number: int = number, name: str = video.name) -> None:
            note = f"{name}: {done} of {total} frames"
            question.on_event(Progress("track: videos", number, len(videos), note))

        for row, features in tokens.videos([_item(frame, size) for frame in video.frames], seen):
            found = Tracker(features, height / wide, rules).track(starts, queries.frame)
            scores[row].append(track_scores(truth, found, queries.frame))
        question.on_event(Progress("track: videos", number + 1, len(videos), video.name))
    measured = {
        row: Measured({name: [one[name] for one in many] for name in many[0]})
        for row, many in scores.items()
    }
    return Report(
        "track", DATASET, make_rows(measured, seed=question.seed), count=len(videos),
        over="videos", notes=_notes(chosen, sizes),
        items=tuple(video.name for video in videos),
    )  # fmt: skip


def _notes(chosen: TrackSettings, sizes: set[str]) -> tuple[str, ...]:
    return (
        "zero-shot nearest neighbours on last-block tokens of frames of"
        f" {', '.join(sorted(sizes))};"
        f" soft arg-max within {chosen.radius:g} px of {_WIDTH}, temperature"
        f" {chosen.temperature:g}; anchors from cosine {chosen.anchor:g}, occluded below"
        f" {chosen.visible:g}",
        "TAP-Vid, strided queries every 5 frames, distances at 256x256, mean over videos",
    )


def _item(frame: NDArray[np.uint8], size: tuple[int, int]) -> TokenItem:
    def load() -> torch.Tensor:
        return resize_image(np.array(frame), size[0], size[1])

    return TokenItem(_digest(frame), size, load)


def _show(videos: Sequence[TrackedVideo], index: int) -> list[Shown]:
    frames = videos[index].frames
    chosen = (("first frame", 0), ("middle frame", len(frames) // 2), ("last frame", -1))
    return [Shown(caption, np.array(frames[at]), photo=True) for caption, at in chosen]


def _digest(frame: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(f"frame {frame.shape}\n".encode())
    digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def _pictures(question: Question, videos: Sequence[TrackedVideo]) -> tuple[Path, ...]:
    """Middle frames as PNG beside the token cache, for the drift of the tuned model."""
    if question.cache_dir is None or not {"tuned", "concat", "sum"} & {*question.settings.models}:
        return ()
    paths = []
    for index in spread(len(videos), question.settings.drift_images or 1):
        frame = videos[index].frames[len(videos[index].frames) // 2]
        path = question.cache_dir.parent / "frames" / f"{_digest(frame)}.png"
        if not path.is_file():
            save_png(path, np.array(frame))
        paths.append(path)
    return tuple(paths)


TASKS.add(
    "track",
    Task(
        summary="point tracking through videos: AJ, delta, OA (TAP-Vid DAVIS)",
        datasets=lambda: [DATASET],
        prepare=prepare,
        uses=frozenset({"track"}),
    ),
)
