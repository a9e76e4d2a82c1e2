"""How our cost grows: 10^4 to 10^6 Gaussians, 3 to 1024 channels.

    python -m benchmarks.sweep [--scene FILE.f3d] [--rounds 20] [--out sweep.json]

Gaussians: the seeded room at ``--dim`` channels; sizes shrink with the spacing, so a picture's
pairs per pixel stay about the same while projection, sorting and lists grow. Channels: the scene
that was asked for. Columns: forward, forward with W kept, forward and backward to the values.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks import machine, options, results, scenes
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.splat import Case
from benchmarks.timing import interleave

COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
CHANNELS = (3, 16, 64, 128, 384, 1024)


def measure(setup: Setup, name: str, what: str) -> Record:
    """Three sides at one size."""
    case = Case(setup)
    weights = case.cached
    sides = {
        "forward": case.forward,
        "kept": lambda: weights.apply(case.scene.features),
        "values": lambda: case.features(case.weights()),
    }
    record = Record(name, what, setup.rounds)
    for side, timing in interleave(sides, setup.rounds).items():
        record.sides[side] = timing.record()
    pixels = setup.width * setup.height
    record.extra = {
        "gaussians": len(case.scene.gaussians),
        "channels": setup.dim,
        "stored_lanes_per_pixel": weights.nnz / pixels,
    }
    median = {side: data["median_s"] for side, data in record.sides.items()}
    notes = f"{weights.nnz / pixels:.0f} lanes/px"
    record.lines.append(Line(name, what, "forward", "kept", median["forward"] / median["kept"],
                             notes=notes))  # fmt: skip
    record.lines.append(Line(name, f"{what}, with backward", "values", "", median["values"], "s"))
    return record


def run(setup: Setup) -> dict[str, Any]:
    """Measure everything; progress goes to stderr."""
    before = machine.describe(setup.threads)
    counts = COUNTS[:2] if setup.quick else COUNTS
    channels = CHANNELS[:2] if setup.quick else CHANNELS
    records = []
    for count in counts:
        print(f"{count} Gaussians ...", file=sys.stderr, flush=True)
        sized = replace(setup, scene=None, synthetic=count, view=None)
        records.append(measure(sized, f"gaussians_{count}", f"{count} Gaussians"))
    scene = scenes.load(setup)
    setup = scenes.settle_view(scene, setup)
    for dim in channels:
        print(f"{dim} channels ...", file=sys.stderr, flush=True)
        records.append(measure(replace(setup, dim=dim), f"channels_{dim}", f"{dim} channels"))
    about = scenes.statistics(scene, scene.view(setup.view))
    return results.report("sweep", before, setup.to_json(), {**scene.origin, **about}, records)


def main() -> None:
    """Run and print the table."""
    parsed = options.parser(__doc__ or "").parse_args()
    options.finish(run(options.setup_from(parsed)), parsed.out)


if __name__ == "__main__":
    main()
