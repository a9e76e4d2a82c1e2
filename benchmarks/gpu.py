"""Splatting on a GPU: ours against gsplat.

    python -m benchmarks.gpu [--scene FILE.f3d] [--out gpu.json]

Seeded rooms of 100,000, 400,000 and a million Gaussians at 876x584 (or a scene's own), everything
on the device beforehand. Both sides project, sort, bin and blend in every repeat; ``kept`` alone
keeps W. gsplat runs with ``channel_chunk`` 32 and 64, packed and not, and its fastest variant
counts. gsplat has no way to leave out the gradients of the geometry; ours does, where only the
values' are asked for. Times are CUDA events, sides interleaved; errors stand beside them: of ours
from gsplat, and of ours from our CPU kernels. After ``--seconds`` nothing further is begun, and the
table says so. Exit code 3 without a CUDA device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks import gpu_sides, machine, options, results, scenes
from benchmarks.gpu_sides import Job
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.splat import difference
from benchmarks.timing import Side, Timing
from fit3d_cli.splat.weights import view_token_weights

COUNTS, SIZE = (400_000, 100_000, 1_000_000), (876, 584)  # the goals' size first
GOALS = {"forward 64": 2.5, "forward 384": 6.0, "values 64": 6.0, "all 64": 3.0}
LIFT_VIEWS = 20


def sides_of(job: Job, work: str) -> dict[str, Side]:
    """Our variants and gsplat's for ``forward``, ``values`` or ``all``; ours come first."""
    made: dict[str, Side] = {}
    draws = {
        f"ours {name}": gpu_sides.ours(job, **choice)
        for name, choice in gpu_sides.our_variants(job.device).items()
    }
    if work != "forward" and job.device.type == "cuda":
        for name, choice in gpu_sides.our_variants(job.device).items():
            draws[f"any order {name}"] = gpu_sides.ours(job, deterministic=False, **choice)
    for name, draw in {**draws, **gpu_sides.gsplat_draws(job)}.items():
        if work == "forward":
            made[name] = gpu_sides.forward(job, draw)
        else:
            made[name] = gpu_sides.step(job, draw, geometry=work == "all")
    return made


def measure(job: Job, figure: str, what: str, sides: Mapping[str, Side], rounds: int) -> Record:
    """Times, memory, errors and lines of one figure."""
    record = Record(figure, what, rounds)
    sides, failed = gpu_sides.working(sides)
    record.extra["failed"] = failed
    for name, reason in failed.items():
        record.lines.append(Line(figure, what, name, "", None, notes=reason))
    if "ours float32" not in sides:
        return record
    timings = gpu_sides.interleave(sides, rounds, job.device)
    for name, timing in timings.items():
        record.sides[name] = timing.record()
        record.sides[name]["memory"] = gpu_sides.peak(sides[name], job.device)
    best = gpu_sides.fastest(timings, "gsplat")
    exact = sides["ours float32"]()
    # Beside each line: how far this side is from gsplat, or from our own float32 without it.
    truth = sides[best]() if best else exact
    for name in timings:
        if name != best:
            record.errors[name] = difference(sides[name](), truth)
    goal = GOALS.get(f"{figure.split(',')[0]}")
    for name in [name for name in timings if name.startswith("ours")]:
        ratio = timings[best].median / timings[name].median if best else None
        note = f"{100 * record.errors[name]['beyond']:.2g} % off by > 1e-4" if best else "no gsplat"
        record.lines.append(
            Line(figure, what, name, best or "gsplat", ratio, goal=goal, notes=note)
        )
    _order_lines(record, timings, figure, what)
    return record


def _order_lines(record: Record, timings: Mapping[str, Timing], figure: str, what: str) -> None:
    """What the fixed order of sums costs, for each variant that was timed both ways."""
    for name in timings:
        fixed = "ours " + name.removeprefix("any order ")
        if name.startswith("any order ") and fixed in timings:
            ratio = timings[fixed].median / timings[name].median
            line = Line(
                figure, f"{what}: fixed order", fixed, name, ratio, "x", 1.2, "lower", "cost"
            )
            record.lines.append(line)


def against_cpu(job: Job, label: str) -> Record:
    """Largest differences of our picture on the device from our picture on the CPU."""
    figure, what = f"cpu{label}", f"difference from the CPU{label}"
    record = Record(figure, what, 0)
    inputs = type(job.inputs)(*(t.cpu() for t in job.inputs))
    there = replace(job, inputs=inputs, upstream=job.upstream.cpu())
    expected = gpu_sides.forward(there, gpu_sides.ours(there))()
    for name, choice in gpu_sides.our_variants(job.device).items():
        found = gpu_sides.forward(job, gpu_sides.ours(job, **choice))().cpu()
        error = difference(found, expected)
        record.errors[name] = error
        note = f"{100 * error['beyond']:.2g} % off by > 1e-4"
        record.lines.append(Line(figure, what, name, "CPU", error["max"], "rel", notes=note))
    return record


def kept(job: Job, label: str, rounds: int) -> Record:
    """A feature step with W kept, against the same step from scratch and against gsplat."""
    record = Record(f"kept 64{label}", f"values step, W kept{label}", rounds)
    sides = {
        f"kept {name}": gpu_sides.kept_step(job, **choice)
        for name, choice in gpu_sides.our_variants(job.device).items()
    }
    sides["fresh"] = gpu_sides.step(job, gpu_sides.ours(job), geometry=False)
    for name, draw in gpu_sides.gsplat_draws(job).items():
        sides[name] = gpu_sides.step(job, draw, geometry=False)
    sides, record.extra["failed"] = gpu_sides.working(sides)
    timings = gpu_sides.interleave(sides, rounds, job.device)
    for name, timing in timings.items():
        record.sides[name] = timing.record()
    best = gpu_sides.fastest(timings, "gsplat")
    for name in [name for name in sides if name.startswith("kept")]:
        for other in ("fresh", best):
            if other in timings:
                ratio = timings[other].median / timings[name].median
                line = Line(record.figure, record.what, name, other, ratio)
                record.lines.append(line)
    return record


def lift(scene: scenes.BenchScene, job: Job, label: str, rounds: int) -> Record:
    """Views per second of a weighted average: pooled weights and their adjoint product."""
    v, device = job.view, job.device
    grid = max(1, v.height // 14), max(1, v.width // 14)
    generator = torch.Generator().manual_seed(0)
    dim = job.inputs.values.shape[1]
    codes = torch.randn(*grid, dim, generator=generator).to(device)
    count = min(LIFT_VIEWS, len(scene.cameras))
    cameras = [scene.view(i * len(scene.cameras) // count) for i in range(count)]

    def once() -> torch.Tensor:
        total = torch.zeros(len(job.inputs.means), dim, device=device)
        for c in cameras:
            a = view_token_weights(
                job.gaussians, c.viewmat, c.K, c.width, c.height, *grid, "tent"
            )  # fmt: skip
            a.apply_t(codes, out=total)
        return total

    what = f"weighted average of {count} views{label}"
    record = Record(f"lift{label}", what, rounds)
    timing = gpu_sides.interleave({"lift": once}, rounds, device, 1)["lift"]
    record.sides["lift"] = timing.record()
    record.sides["lift"]["memory"] = gpu_sides.peak(once, device)
    line = Line(record.figure, what, "lift", "", timing.median / count, "s", notes="per view")
    record.lines.append(line)
    return record


def _attempt(what: str, call: Callable[[], Record]) -> Record:
    """The record, or a line that says why there is none: the other figures still count."""
    try:
        return call()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0][:120]
        print(f"{what} failed: {reason}", file=sys.stderr)
        line = Line(what, what, "ours", "", None, notes=reason)
        return Record(what, what, 0, lines=[line], extra={"failed": {"ours": reason}})


def measure_scene(
    scene: scenes.BenchScene, setup: Setup, device: torch.device, label: str, deadline: float
) -> list[Record]:
    """All figures of one scene that can be begun before the deadline (monotonic seconds)."""
    view = scene.view(scenes.settle_view(scene, setup, 3).view)
    records: list[Record] = []
    channels = (3, setup.dim) if setup.quick else (3, 64, 384)
    wide = 64 if 64 in channels else channels[-1]
    for dim in sorted(channels, key=lambda dim: dim != wide):
        if time.monotonic() > deadline:
            what = f"{dim} channels{label}"
            line = Line(what, what, "ours", "", None, notes="not begun: out of time")
            records.append(Record(what, what, 0, lines=[line]))
            continue
        sized = scenes.with_channels(scene, dim, setup.seed)
        job = gpu_sides.job(sized.inputs, view, device, setup.seed)
        for work in ("forward", "values", "all") if dim == wide else ("forward",):
            figure, what = f"{work} {dim},{label}", f"{work}, {dim} channels{label}"
            print(f"{what} ...", file=sys.stderr, flush=True)
            records.append(measure(job, figure, what, sides_of(job, work), setup.rounds))
        if dim == wide:
            records += [
                _attempt(f"kept{label}", lambda job=job: kept(job, label, setup.rounds)),
                _attempt(
                    f"lift{label}",
                    lambda job=job, sized=sized: lift(sized, job, label, max(3, setup.rounds // 5)),
                ),
                _attempt(
                    f"difference from the CPU{label}", lambda job=job: against_cpu(job, label)
                ),
            ]
        del job
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return records


def run(setup: Setup, device: torch.device, seconds: float = float("inf")) -> dict[str, Any]:
    """Measure what can be begun within ``seconds``; progress goes to stderr."""
    deadline = time.monotonic() + seconds
    about = {**machine.describe(setup.threads), "device": _device(device)}
    records: list[Record] = []
    if setup.scene:
        scene = scenes.load(setup)
        records += measure_scene(scene, setup, device, f", {scene.origin['name']}", deadline)
        origin = scene.origin
    else:
        counts = (1000, 3000) if setup.quick else COUNTS
        for count in counts:
            label = f", {count // 1000}k"
            records += measure_scene(scenes.room(count, setup), setup, device, label, deadline)
        origin = {"kind": "synthetic rooms", "counts": list(counts)}
    return results.report("gpu", about, setup.to_json(), origin, records)


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": "CPU stand-in"}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name, "memory_bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}", "cuda": torch.version.cuda,
    }  # fmt: skip


def main() -> int:
    """Run and print the table."""
    made = options.parser(__doc__ or "")
    made.add_argument("--device", default="cuda", help="cpu tries the harness without gsplat")
    made.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing later")
    parsed = made.parse_args()
    if parsed.device.startswith("cuda") and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device: nothing was measured", file=sys.stderr)
        return 3
    parsed.width = parsed.width or (None if parsed.quick or parsed.scene else SIZE[0])
    parsed.height = parsed.height or (None if parsed.quick or parsed.scene else SIZE[1])
    device = torch.device(parsed.device)
    result = run(options.setup_from(parsed), device, parsed.seconds)
    options.finish(result, parsed.out)
    return 0 if all(name.startswith("gsplat") for name in _failures(result)) else 1


def _failures(result: Mapping[str, Any]) -> list[str]:
    """Names of the sides that could not run at all."""
    return [name for figure in result["figures"] for name in figure["extra"].get("failed", ())]


if __name__ == "__main__":
    sys.exit(main())
