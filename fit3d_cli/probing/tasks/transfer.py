"""``probe transfer pf-pascal``: key points carried from one picture to another by their features.

The protocol of 3DCorrEnhance: letterbox of 840 x 840 (the multiple of the patch nearest to it),
bilinear features at the source's points, arg-max of the cosine over the target's feature map
enlarged to pixels, PCK at .05, .10, .15 of the square's side. A category's PCK pools its points;
figures are means over categories, plain and weighted by pairs, and the mean of each pair's PCK.
Rows of the tables that list unequal numbers of points are matched in order, as published; with the
preset ``fixed`` they are not scored, as nothing says which of their points are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fit3d_cli.backbones.model import Backbone
from fit3d_cli.datasets.pfpascal import LAYOUT, KeypointPair, read_pfpascal
from fit3d_cli.geometry.grids import interpolate
from fit3d_cli.images import image_size
from fit3d_cli.probing.assembly import require_no_head
from fit3d_cli.probing.examples import photos_of
from fit3d_cli.probing.matching_tasks.pck import ALPHAS, category_pck, hits, shared_groups
from fit3d_cli.probing.matching_tasks.peaks import best_pixels
from fit3d_cli.probing.matching_tasks.pictures import (
    Letterbox,
    RowTokens,
    chosen_width,
    require_name,
    spread,
)
from fit3d_cli.probing.tasks.base import TASKS, Prepared, Question, Task
from fit3d_cli.progress import Progress
from fit3d_cli.report import Report
from fit3d_cli.statistics import Measured, make_rows

DATASET = "pf-pascal"
_WIDTH = 840
_PAIRS_AT_ONCE = 4


def prepare(question: Question) -> Prepared:
    """Open PF-PASCAL.

    Raises:
        SettingsError: ``fused`` is asked for.
        UnknownNameError: Another dataset.
        DatasetError: It is absent or damaged.
    """
    require_name(question, DATASET, LAYOUT)
    require_no_head(question.settings.models, "transfer")
    everything = read_pfpascal(question.root)
    pairs = [everything[i] for i in spread(len(everything), question.settings.max_images)]
    pictures = dict.fromkeys(path for pair in pairs for path in (pair.source, pair.target))

    def measure(models: Mapping[str, Backbone]) -> Report:
        return _measure(question, pairs, models)

    show = photos_of([(("source", pair.source), ("target", pair.target)) for pair in pairs])
    return Prepared(measure, tuple(pictures), show)


def _measure(
    question: Question, pairs: Sequence[KeypointPair], models: Mapping[str, Backbone]
) -> Report:
    tokens = RowTokens(models, question)
    width = chosen_width(question.settings, _WIDTH)
    side = tokens.input_size(width, width, width)[0]
    right = {row: torch.zeros(len(pairs), len(ALPHAS), dtype=torch.float64) for row in tokens.rows}
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = pairs[start : start + _PAIRS_AT_ONCE]
        paths = list(dict.fromkeys(p for pair in chunk for p in (pair.source, pair.target)))
        boxes = {path: Letterbox.of(*image_size(path), side) for path in paths}
        made = tokens.grids([boxes[path].item(path) for path in paths])
        grids = dict(zip(paths, made, strict=True))
        for offset, pair in enumerate(chunk):
            source = boxes[pair.source].place(pair.source_points)
            target = boxes[pair.target].place(pair.target_points)
            for row in tokens.rows:
                found = _carry(grids[pair.source][row], grids[pair.target][row], source, side)
                right[row][start + offset] = hits(found, target, side)
        question.on_event(Progress("transfer: pairs", start + len(chunk), len(pairs)))
    return _report(question, pairs, right, side)


def _carry(source: Tensor, target: Tensor, points: Tensor, side: int) -> Tensor:
    """``[K, 2]`` pixels of the target for points of the source."""
    if not len(points):
        return torch.zeros(0, 2, dtype=torch.float64)
    features = interpolate(source, (points / side).to(source.device, torch.float32))
    return best_pixels(features, target, side, side)


def _report(
    question: Question, pairs: Sequence[KeypointPair], right: Mapping[str, Tensor], side: int
) -> Report:
    points = torch.tensor([len(pair.source_points) for pair in pairs], dtype=torch.float64)
    uneven = torch.tensor([pair.uneven for pair in pairs])
    if question.settings.preset == "fixed":
        points = points.masked_fill(uneven, 0)
        right = {row: counts.masked_fill(uneven[:, None], 0) for row, counts in right.items()}
    categories = [pair.category for pair in pairs]
    measured = {}
    for row, counts in right.items():
        pooled, samples = {}, {}
        for view in dict.fromkeys(pair.view for pair in pairs):
            scored = torch.tensor([pair.view == view for pair in pairs])
            for column, alpha in enumerate(ALPHAS):
                name = f"{view} pck@{alpha:.2f}".strip()
                for by_pairs in (False, True):
                    pooled[f"{name} by pairs" if by_pairs else name] = category_pck(
                        counts[:, column], points, categories, scored, by_pairs=by_pairs
                    )
        for column, alpha in enumerate(ALPHAS):
            share = counts[:, column] / points  # 0 / 0: a pair without points is not scored
            samples[f"pck@{alpha:.2f} of a pair"] = share.tolist()
        measured[row] = Measured(samples, pooled)
    groups = shared_groups([(pair.source, pair.target) for pair in pairs])
    notes = [
        f"zero-shot: arg-max cosine over last-block tokens enlarged to {side}x{side} (letterbox);"
        f" a hit is closer than alpha * {side} pixels",
        "pck@a: mean over categories of their pooled points; by pairs: weighted by pairs; of a"
        " pair: mean over pairs",
        "pairs that share pictures are resampled together",
    ]
    if bool(uneven.any()):
        how = "matched in order up to the shorter list, as in the published evaluation"
        if question.settings.preset == "fixed":
            how = "not scored (preset fixed)"
        notes.append(
            f"{int(uneven.sum())} of {len(pairs)} pairs list more points for one picture than for"
            f" the other: {how}"
        )
    return Report(
        "transfer", DATASET, make_rows(measured, groups=groups, seed=question.seed),
        count=int((points > 0).sum()), over="pairs", notes=tuple(notes),
        items=tuple(f"{pair.source.name} → {pair.target.name}" for pair in pairs),
    )  # fmt: skip


TASKS.add(
    "transfer",
    Task(
        summary="key-point transfer between pictures of a category: PCK (PF-PASCAL)",
        datasets=lambda: [DATASET],
        prepare=prepare,
        uses=frozenset({"preset"}),
    ),
)
