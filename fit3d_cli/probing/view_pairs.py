"""Which pairs of views are asked: overlapping, and spread over how far the camera turned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_cli.errors import DatasetError
from fit3d_cli.geometry.correspond import DepthMaps, grid_places, rotation_angle, unproject
from fit3d_cli.probing.corr import ANGLE_UNIT, ANGLES, BASELINE_UNIT, BASELINES, bin_of
from fit3d_cli.probing.posed import PosedViews
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import CorrSettings

_PROBES = (16, 12)
_TOGETHER = 8  # views whose depths are in memory at a time


@dataclass(frozen=True)
class ViewPair:
    """Two views that see a common surface.

    Attributes:
        first: The view whose points are looked for.
        second: The view in which they are looked for.
        angle: Rotation between them, degrees.
        baseline: Distance of the cameras over the median depth of the first.
    """

    first: int
    second: int
    angle: float
    baseline: float

    @property
    def bins(self) -> tuple[str, str]:
        """Names of the bins of its angle and of its baseline."""
        return (
            bin_of(self.angle, ANGLES, ANGLE_UNIT),
            bin_of(self.baseline, BASELINES, BASELINE_UNIT),
        )


def choose_pairs(
    posed: PosedViews, settings: CorrSettings, seed: int, on_event: OnEvent
) -> tuple[ViewPair, ...]:
    """Draw pairs, as many from every bin of angles as there are, up to ``settings.pairs``.

    Every ordered pair may be drawn once. What a sparse bin cannot fill goes to the others.

    Raises:
        DatasetError: No two views overlap.
    """
    bins: dict[str, list[ViewPair]] = {}
    for pair in _overlapping(posed, settings, on_event):
        bins.setdefault(pair.bins[0], []).append(pair)
    if not bins:
        raise DatasetError(
            f"no two of {len(posed)} views overlap by {settings.min_overlap:.0%} within "
            f"{settings.max_angle:g} degrees",
            where=posed.name,
            hint="use a capture with more views, or lower probe.corr.min_overlap",
        )
    generator = torch.Generator().manual_seed(seed)
    chosen: list[ViewPair] = []
    # The smallest bin first, so that what it leaves is shared by the larger ones.
    waiting = sorted(bins.items(), key=lambda entry: (len(entry[1]), entry[0]))
    for number, (_, pairs) in enumerate(waiting):
        room = (settings.pairs - len(chosen)) // (len(waiting) - number)
        order = torch.randperm(len(pairs), generator=generator).tolist()
        chosen += [pairs[i] for i in order[:room]]
    return tuple(sorted(chosen, key=lambda pair: (pair.first, pair.second)))


def _overlapping(posed: PosedViews, settings: CorrSettings, on_event: OnEvent) -> list[ViewPair]:
    """All ordered pairs within the angle of which the second sees enough of the first."""
    probes, count = grid_places(*_PROBES), len(posed)
    asked: list[Tensor | None] = []
    depths: list[float] = []
    for first, depth in enumerate(posed.depths):
        alone = DepthMaps.of([depth], posed.cameras[first])
        points, known = unproject(probes, alone, settings.tolerance)
        asked.append(points[known] if bool(known.any()) else None)
        depths.append(float(depth[depth > 0].median()) if bool((depth > 0).any()) else 0.0)
    found: list[ViewPair] = []
    for begin in range(0, count, _TOGETHER):
        on_event(Progress("overlaps", begin, count))
        some = range(begin, min(begin + _TOGETHER, count))
        cameras = posed.cameras[list(some)]
        maps = DepthMaps.of([posed.depths[view] for view in some], cameras)
        for first, wanted in enumerate(asked):
            if wanted is None:
                continue
            angles = rotation_angle(posed.cameras.viewmats[first], cameras.viewmats)
            seen = maps.find(wanted, settings.tolerance)[2]
            fits = (seen.double().mean(1) >= settings.min_overlap) & (angles <= settings.max_angle)
            centers = posed.cameras.centers
            baselines = _baselines(centers[list(some)], centers[first], depths[first])
            found += [
                ViewPair(first, some[second], float(angles[second]), float(baselines[second]))
                for second in torch.nonzero(fits).flatten().tolist()
                if some[second] != first
            ]
    on_event(Progress("overlaps", count, count))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def _baselines(centers: Tensor, center: Tensor, depth: float) -> Tensor:
    distances: Tensor = (centers - center).norm(dim=1)
    return distances / depth
