"""``corr``: do the tokens of two views find the same points? See ``probing.corr``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from torch import Tensor

from fit3d_cli.backbones.cache import TokenCache
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.backbones.token_store import TokenStore
from fit3d_cli.capture.base import View
from fit3d_cli.probing.assembly import PARTS, assemble, require_no_head
from fit3d_cli.probing.corr import (
    ANGLE_UNIT,
    ANGLES,
    BASELINE_UNIT,
    BASELINES,
    DenseTruth,
    bin_names,
    dense_figures,
    dense_truth,
    sure_figures,
    sure_truth,
)
from fit3d_cli.probing.examples import photos_of
from fit3d_cli.probing.posed import PosedViews, open_posed, token_item
from fit3d_cli.probing.scores import BLOCK, MIN_GROUPS
from fit3d_cli.probing.tasks.base import TASKS, Prepared, Question, Task
from fit3d_cli.probing.view_pairs import ViewPair, choose_pairs
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.statistics import Measured, make_rows

# Figures that are also given by bin, and the bins.
_BINNED = (
    (("recall@1patch", "recall@10px"), bin_names(ANGLES, ANGLE_UNIT)),
    (("recall@1patch",), bin_names(BASELINES, BASELINE_UNIT)),
)
_HELD_VIEWS = 32


def prepare(question: Question) -> Prepared:
    """Open the views, choose the pairs.

    Raises:
        Fit3dError: As ``open_posed``, ``choose_pairs`` and ``require_no_head``.
    """
    require_no_head(question.settings.models, question.task)
    posed = open_posed(question)
    pairs = choose_pairs(posed, question.settings.corr, question.seed, question.on_event)
    used = sorted({view for pair in pairs for view in (pair.first, pair.second)})
    return Prepared(
        partial(_measure, question, posed, pairs),
        tuple(posed.views[index].image_path for index in used),
        photos_of([_photos(posed, pair) for pair in pairs]),
    )


def _photos(posed: PosedViews, pair: ViewPair) -> tuple[tuple[str, Path], ...]:
    first, second = posed.views[pair.first], posed.views[pair.second]
    return ("asks", first.image_path), ("answers", second.image_path)


def _measure(
    question: Question,
    posed: PosedViews,
    pairs: tuple[ViewPair, ...],
    models: Mapping[str, Backbone],
) -> Report:
    settings, rows = question.settings.corr, question.settings.models
    used = sorted({view for pair in pairs for view in (pair.first, pair.second)})
    place = {view: number for number, view in enumerate(used)}
    views = [posed.views[view] for view in used]
    stores = {
        name: _tokens(question, views, name, model, len(models)) for name, model in models.items()
    }

    @lru_cache(_HELD_VIEWS)
    def features(row: str, view: int) -> Tensor:
        parts = {name: stores[name][place[view]].patches.float() for name in PARTS[row]}
        return assemble(row, parts).to(question.device)

    count = max(1, settings.matches // settings.stride**2)
    figures: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for done, pair in enumerate(pairs):
        question.on_event(Progress("pairs", done, len(pairs)))
        a, b = ((posed.depths[view], posed.cameras[view]) for view in (pair.first, pair.second))
        dense: dict[tuple[int, int], DenseTruth] = {}
        sure = sure_truth(*a, *b, stride=settings.stride, tolerance=settings.tolerance)
        for row in rows:
            first, second = features(row, pair.first), features(row, pair.second)
            grid = (first.shape[0], first.shape[1])
            if grid not in dense:
                dense[grid] = dense_truth(*a, *b, grid, settings.tolerance)
            patch = models[PARTS[row][0]].patch_size
            size = (second.shape[1] * patch, second.shape[0] * patch)
            found = dense_figures(first, second, dense[grid], size)
            found |= sure_figures(first, second, sure, count)
            for (names, _), bin_ in zip(_BINNED, pair.bins, strict=True):
                found |= {f"{name}:{bin_}": found[name] for name in names}
            figures[row].append(found)
    question.on_event(Progress("pairs", len(pairs), len(pairs)))
    measured = {row: Measured(_columns(found)) for row, found in figures.items()}
    block = max(1, min(BLOCK, len(posed) // MIN_GROUPS))
    return Report(
        question.task,
        posed.name,
        make_rows(measured, groups=[p.first // block for p in pairs], seed=question.seed),
        len(pairs),
        over="pairs",
        notes=(*_notes(question, posed, pairs, count), _grouping(block)),
        items=tuple(f"{posed.views[p.first].name} → {posed.views[p.second].name}" for p in pairs),
    )


def _tokens(
    question: Question, views: Sequence[View], name: str, model: Backbone, models: int
) -> TokenStore:
    """The tokens of one of several models; half of the memory is the depths'."""
    backbone = question.settings.backbone
    cache = TokenCache(question.cache_dir) if question.cache_dir is not None else None

    def tell(done: int, total: int) -> None:
        question.on_event(Progress(f"{name}: tokens", done, total))

    items = [
        token_item(view, model.input_size(view.width, view.height, backbone.width))
        for view in views
    ]
    return TokenStore(
        model,
        items,
        cache=cache,
        batch=backbone.batch,
        device=question.device,
        on_step=tell,
        memory=(question.settings.memory << 19) // models,
    )


def _columns(figures: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Per-pair figures by name, those of the bins last; NaN for the pairs of other bins."""
    plain = [name for name in figures[0] if ":" not in name]
    binned = [f"{name}:{bin_}" for names, bins in _BINNED for name in names for bin_ in bins]
    there = {name for found in figures for name in found}
    return {
        name: [found.get(name, math.nan) for found in figures]
        for name in (*plain, *binned)
        if name in there
    }


def _notes(
    question: Question, posed: PosedViews, pairs: Sequence[ViewPair], count: int
) -> tuple[str, ...]:
    settings = question.settings.corr
    return (
        *posed.notes,
        f"ordered pairs that overlap by {settings.min_overlap:.0%} at least, seed {question.seed};"
        f" by rotation {_counts(pairs, 0)}; by distance of the cameras over median depth "
        f"{_counts(pairs, 1)}",
        "recall@patch, APE, PCDP: visible patch centres, cosine nearest neighbour among patch "
        "centres; APE and PCDP relative to the shortest edge",
        f"recall@px: the {count} surest matches (ratio test) of every {settings.stride}. pixel of "
        "a frame whose long side is 160 (probe3d: a quarter of 640); what the other view does not "
        "see is an error",
    )


def _grouping(block: int) -> str:
    if block == 1:
        return "intervals: pairs with the same query view are resampled together"
    return (
        f"intervals: pairs whose query views lie in the same {block} neighbouring views are "
        "resampled together"
    )


def _counts(pairs: Sequence[ViewPair], which: int) -> str:
    found = Counter(pair.bins[which] for pair in pairs)
    return ", ".join(f"{found[name]} in {name}" for name in _BINNED[which][1] if found[name])


TASKS.add(
    "corr",
    Task(
        summary="multi-view correspondence by cosine nearest neighbour (recall, APE, PCDP)",
        datasets=lambda: ["any RGB-D capture", "any lifted scene"],
        prepare=prepare,
        uses=frozenset({"corr"}),
    ),
)
