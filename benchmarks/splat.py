"""Splatting on the CPU: ours against two torch rasterisers, and against itself.

    python -m benchmarks.splat [--scene FILE.f3d] [--rounds 20] [--out splat.json]

Every side of a figure does the whole work in every repeat: projection, sorting, lists, blending;
the sides called ``kept`` alone keep W (their memory includes making it). Figures: ``forward``,
``cached``, ``features`` (forward and backward, gradients of the values only),
``cached_features``, ``full`` (all gradients), ``threads``, ``threads_features``,
``determinism``, ``stages``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine, memory, options, results, scenes, stages
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.rivals import lists, raster
from benchmarks.timing import Side, interleave
from fit3d_cli.splat.backends import engine_for
from fit3d_cli.splat.rasterize import ViewWeights, rasterize, view_weights

PAIRS, TILES = "pairs", "tiles"


@dataclass(frozen=True)
class Figure:
    """Sides to time, ours first, and what the others are to be beaten by.

    Attributes:
        what: In words.
        sides: Calls that return a tensor or a tuple of tensors.
        goals: By rival: the ratio rival / ours to reach, None for none.
        memory: Whether peak memory is measured.
    """

    what: str
    sides: Mapping[str, Side]
    goals: Mapping[str, float | None] = field(default_factory=dict)
    memory: bool = True


class Case:
    """One view of one scene with an upstream gradient; every method does one side's whole work."""

    def __init__(self, setup: Setup) -> None:
        self.scene = scenes.load(setup)
        # Settled here, so that a child process need not look for it again.
        self.setup = scenes.settle_view(self.scene, setup)
        assert self.setup.view is not None
        self.view = self.scene.view(self.setup.view)
        generator = torch.Generator().manual_seed(setup.seed)
        v = self.view
        self.upstream = torch.randn(v.height, v.width, setup.dim, generator=generator)
        self._cached: ViewWeights | None = None

    def weights(self, threads: int | None = None) -> ViewWeights:
        """W from scratch."""
        v = self.view
        threads = threads or self.setup.threads
        return view_weights(
            self.scene.gaussians, v.viewmat, v.K, v.width, v.height, threads=threads
        )

    @property
    def cached(self) -> ViewWeights:
        """W, made once."""
        if self._cached is None:
            self._cached = self.weights()
        return self._cached

    def forward(self, threads: int | None = None) -> Tensor:
        """The picture."""
        v, threads = self.view, threads or self.setup.threads
        with torch.no_grad():
            inputs = self.scene.inputs
            return rasterize(*inputs, v.viewmat, v.K, v.width, v.height, threads=threads).values

    def features(self, weights: ViewWeights) -> Tensor:
        """Forward and backward to the values."""
        values = self.scene.features.detach().requires_grad_()
        weights.apply(values).backward(self.upstream)
        assert values.grad is not None
        return values.grad

    def full(self) -> tuple[Tensor | None, ...]:
        """Forward and backward to everything."""
        v, leaves = self.view, [t.detach().requires_grad_() for t in self.scene.inputs]
        drawn = rasterize(
            *leaves, v.viewmat, v.K, v.width, v.height, threads=self.setup.threads
        )  # fmt: skip
        drawn.values.backward(self.upstream)
        return tuple(leaf.grad for leaf in leaves)

    def rival(self, name: str, work: str) -> Side:
        """A torch rival's side: ``forward``, ``features`` or ``full``."""
        blend, inputs, view = raster.RIVALS[name], self.scene.inputs, self.view
        if work == "forward":
            return lambda: raster.forward(inputs, view, blend)
        whole = work == "full"
        return lambda: raster.step(inputs, view, self.upstream, blend, geometry=whole)

    def rivals(self, work: str) -> dict[str, Side]:
        """Both torch rivals."""
        return {name: self.rival(name, work) for name in raster.RIVALS}

    def own_projection(self) -> lists.Flat:
        """Our projection in the rivals' form."""
        inputs = self.scene.inputs
        flat = engine_for(torch.device("cpu")).project(*inputs[:4], self.view)
        shape = torch.cat([flat.means2d, flat.conics, inputs.opacities[:, None]], 1)
        return lists.Flat(shape, flat.depths, flat.radii[:, 0] > 0)


def figures(setup: Setup, case: Case | None = None) -> dict[str, Figure]:
    """All timed figures, by identifier."""
    case = case or Case(setup)
    two, goals = setup.threads, {PAIRS: 20.0, TILES: 8.0}
    made = {
        "forward": Figure("forward", {"ours": case.forward, **case.rivals("forward")}, goals),
        "cached": Figure(
            "forward, W kept",
            {"kept": lambda: case.cached.apply(case.scene.features), "fresh": case.forward},
            {"fresh": 3.0},
        ),
        "features": Figure(
            "forward + backward, values only",
            {"ours": lambda: case.features(case.weights()), **case.rivals("features")},
            goals,
        ),
        "cached_features": Figure(
            "forward + backward, values only, W kept",
            {
                "kept": lambda: case.features(case.cached),
                "fresh": lambda: case.features(case.weights()),
            },
            {"fresh": None},
        ),
        "full": Figure(
            "forward + backward, all gradients",
            {"ours": case.full, **case.rivals("full")},
            {PAIRS: None, TILES: None},
        ),
        "threads": Figure(
            f"{two} threads, forward",
            {f"{two} threads": case.forward, "1 thread": lambda: case.forward(1)},
            {"1 thread": 1.8 if two == 2 else None},
            memory=False,
        ),
        "threads_features": Figure(
            f"{two} threads, forward + backward, values only",
            {
                f"{two} threads": lambda: case.features(case.weights()),
                "1 thread": lambda: case.features(case.weights(1)),
            },
            {"1 thread": 1.8 if two == 2 else None},
            memory=False,
        ),
    }
    return {name: figure for name, figure in made.items() if setup.wants(name)}


def measure(case: Case, name: str, figure: Figure) -> Record:
    """Time one figure, compare the results of its sides, and judge."""
    setup = case.setup
    record = Record(name, figure.what, setup.rounds)
    ours, *others = figure.sides
    expected = figure.sides[ours]()
    for other in others:
        record.errors[other] = difference(figure.sides[other](), expected)
    timings = interleave(figure.sides, setup.rounds)
    for side, timing in timings.items():
        record.sides[side] = timing.record()
        if setup.memory and figure.memory:
            apart = memory.measure_apart("benchmarks.splat", name, side, setup.to_json())
            record.sides[side]["memory"] = apart
    for other in others:
        ratio = timings[other].median / timings[ours].median
        notes = _notes(record.errors[other])
        line = Line(name, figure.what, ours, other, ratio, goal=figure.goals[other], notes=notes)
        record.lines.append(line)
    return record


def difference(found: Any, expected: Any) -> dict[str, float]:
    """Differences relative to the largest expected value, the worst over a tuple's tensors.

    Returns:
        ``max``: the largest; ``beyond``: share of rows (pixels, Gaussians) with one above 1e-4.
    """
    if isinstance(expected, tuple):
        parts = [
            difference(a, b)
            for a, b in zip(found, expected, strict=True)
            if a is not None and b is not None
        ]
        return {key: max(part[key] for part in parts) for key in parts[0]}
    if isinstance(found, tuple):
        found = found[-1]  # a step's gradients; ours is that of the values
    scale = float(expected.abs().max()) or 1.0
    worst = ((found - expected).abs() / scale).reshape(-1, expected.shape[-1]).amax(-1)
    return {"max": float(worst.max()), "beyond": float((worst > 1e-4).float().mean())}


def _notes(error: Mapping[str, float]) -> str:
    return f"{100 * error['beyond']:.2g} % off by > 1e-4" if error["max"] > 1e-4 else ""


def run(setup: Setup) -> dict[str, Any]:
    """Measure everything; progress goes to stderr."""
    before = machine.describe(setup.threads)
    case = Case(setup)
    records = []
    for name, figure in figures(setup, case).items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        records.append(measure(case, name, figure))
    if setup.wants("determinism"):
        records.append(stages.determinism(case))
    if setup.wants("stages"):
        records.append(stages.breakdown(case))
    for record in records:
        if record.figure == "forward":
            flat = case.own_projection()
            record.extra["max_error_same_projection"] = {
                name: difference(
                    raster.forward(case.scene.inputs, case.view, blend, flat), case.forward()
                )["max"]
                for name, blend in raster.RIVALS.items()
            }
    scene = {**case.scene.origin, **scenes.statistics(case.scene, case.view)}
    return results.report("splat", before, case.setup.to_json(), scene, records)


def main() -> None:
    """Run and print the table."""
    parsed = options.parser(__doc__ or "").parse_args()
    options.finish(run(options.setup_from(parsed)), parsed.out)


if __name__ == "__main__":
    main()
