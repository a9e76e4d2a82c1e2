"""How sure a figure is: the bootstrap over items, paired between models.

All models of a report saw the same items, so one set of resamples serves them all: what makes an
item hard for every model cancels in the differences (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapters 8 and 13). The intervals cover the choice of items, not the randomness
of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fit3d_cli.report import Figure, Row

DRAWS = 4000
LEVEL = 0.95
# With fewer even a unanimous result happens by chance more often than one time in twenty
# (sign test: 2 / 2**5 = 0.06), so fewer groups give no interval and fewer items no verdict.
MIN_GROUPS = 6
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Pooled:
    """A figure of the whole split that is no mean over items, such as mIoU.

    Attributes:
        sums: ``[n, K]`` additive statistics of each item, e.g. hits, true and predicted pixels by
            class; a row of NaN for an item that was not scored.
        reduce: ``[..., K]`` summed statistics to ``[...]`` figures.
    """

    sums: Tensor
    reduce: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """What one model measured, item by item, all in the same order for every model.

    Attributes:
        samples: Metric name to one value per item; the figure is their mean. NaN: not scored.
        pooled: Metric name to statistics of a figure of the whole split.
    """

    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pooled: Mapping[str, Pooled] = field(default_factory=dict)


def make_rows(
    measured: Mapping[str, Measured],
    *,
    groups: Sequence[int] | None = None,
    reference: str = "base",
    keep_samples: bool = True,
    seed: int = 0,
) -> tuple[Row, ...]:
    """Rows of a report: every figure with its interval and its paired difference.

    Args:
        measured: Model name to its measurements, in the order of the rows. All models have the same
            metrics over the same items.
        groups: Items with the same number are resampled together (pairs that share a picture,
            neighbouring frames), which keeps the interval honest when they are alike; None
            resamples items one by one. Fewer than ``MIN_GROUPS`` groups of several items give no
            interval.
        reference: Row that the others are compared with; the first one if there is no such row.
        keep_samples: Whether the rows carry the per-item values.
        seed: Of the resampling.

    Raises:
        ValueError: Models differ in their metrics or items.
    """
    names = list(measured)
    if reference not in measured and names:
        reference = names[0]
    figures: dict[str, dict[str, Figure]] = {name: {} for name in names}
    differences: dict[str, dict[str, Figure]] = {name: {} for name in names}
    table = _by_metric(measured)
    for metrics, used in _alike(table):
        parts = {metric: table[metric] for metric in metrics}
        sums = [[part.sums[used].double() for part in models.values()] for models in parts.values()]
        # One set of resamples for all that was scored on the same items.
        drawn = iter(_resample([one for many in sums for one in many], used, groups, seed))
        for (metric, models), many in zip(parts.items(), sums, strict=True):
            spread: dict[str, Tensor] = {}
            for (name, part), one in zip(models.items(), many, strict=True):
                value = float(part.reduce(one.sum(0))) if len(one) else math.nan
                resampled = next(drawn)
                spread[name] = part.reduce(resampled) if len(resampled) else torch.empty(0)
                figures[name][metric] = Figure(value, len(one), *_ends(spread[name]))
            for name in names:
                if name != reference:
                    differences[name][metric] = Figure(
                        figures[name][metric].value - figures[reference][metric].value,
                        len(many[0]),
                        *_ends(spread[name] - spread[reference]),
                    )
    for found in (*figures.values(), *differences.values()):
        for metric in table:  # in the order in which they were measured
            if metric in found:
                found[metric] = found.pop(metric)
    return tuple(
        Row(
            name,
            figures[name],
            differences[name],
            {k: tuple(map(float, v)) for k, v in measured[name].samples.items()}
            if keep_samples
            else {},
        )
        for name in names
    )


def mean_figure(
    values: Sequence[float], *, groups: Sequence[int] | None = None, seed: int = 0
) -> Figure:
    """The mean of per-item values with its interval; items that are NaN are left out."""
    (row,) = make_rows({"": Measured({"mean": values})}, groups=groups, seed=seed)
    return row.figures["mean"]


def _by_metric(measured: Mapping[str, Measured]) -> dict[str, dict[str, Pooled]]:
    """Metric to model to statistics; a mean is a pooled figure of value and count."""
    table: dict[str, dict[str, Pooled]] = {}
    for name, one in measured.items():
        for metric, pooled in one.pooled.items():
            table.setdefault(metric, {})[name] = pooled
        for metric, values in one.samples.items():
            column = torch.tensor(list(values), dtype=torch.float64)
            sums = torch.stack([column, torch.where(column.isnan(), column, 1.0)], dim=1)
            table.setdefault(metric, {})[name] = Pooled(sums, _mean)
    for metric, parts in table.items():
        lengths = {len(part.sums) for part in parts.values()}
        if len(parts) != len(measured) or len(lengths) != 1:
            raise ValueError(f"{metric}: models {list(parts)} measured {lengths} items")
    return table


def _alike(table: Mapping[str, Mapping[str, Pooled]]) -> list[tuple[list[str], Tensor]]:
    """Metrics that every model scored on the same items, and ``[n]`` bool which these are."""
    found: dict[bytes, tuple[list[str], Tensor]] = {}
    for metric, parts in table.items():
        used = torch.stack([part.sums.isfinite().all(1) for part in parts.values()]).all(0)
        found.setdefault(used.numpy().tobytes(), ([], used))[0].append(metric)
    return list(found.values())


def _mean(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


def _resample(
    sums: Sequence[Tensor], used: Tensor, groups: Sequence[int] | None, seed: int
) -> list[Tensor]:
    """``[draws, K]`` statistics of each resampled split; empty for too few groups or items."""
    kept = torch.nonzero(used).flatten()
    labels = kept if groups is None else torch.tensor(list(groups))[kept]
    _, member = torch.unique(labels, return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    if count < (2 if count == len(member) else MIN_GROUPS):
        return [torch.empty(0)] * len(sums)
    # Items of a group are drawn together, so their sums are all that a resample needs.
    grouped = [s.new_zeros(count, s.shape[1]).index_add_(0, member, s) for s in sums]
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[] for _ in sums]
    step = max(1, _CHUNK_VALUES // count)
    for start in range(0, DRAWS, step):
        picks = torch.randint(count, (min(step, DRAWS - start), count), generator=generator)
        times = torch.zeros(picks.shape, dtype=torch.float64)
        times.scatter_add_(1, picks, torch.ones_like(times))
        for part, one in zip(parts, grouped, strict=True):
            part.append(times @ one)
    return [torch.cat(part) for part in parts]


def _ends(spread: Tensor) -> tuple[float, float]:
    finite = spread[spread.isfinite()]
    if len(finite) < 2:
        return math.nan, math.nan
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(finite, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
