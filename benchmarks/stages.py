"""Where our time goes, and what a fixed order of sums costs."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.results import Line, Record
from benchmarks.timing import Timing, interleave
from fit3d_cli.splat import kernel, matrix

if TYPE_CHECKING:
    from benchmarks.splat import Case

# Compiled functions by stage of the pipeline; one that is not named here is its own stage.
STAGES = {
    "project_forward": "project",
    "depth_order": "order",
    "bin_count": "bin",
    "bin_fill": "bin",
    "weights_fill": "weights",
    "apply": "apply",
    "apply_t": "apply_t",
}


class _Watched:
    """The compiled module, its functions timed."""

    def __init__(self, module: ModuleType, spent: dict[str, float]) -> None:
        self._module, self._spent = module, spent

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._module, name)
        if inspect.isclass(member) or not callable(member):
            return member
        stage = STAGES.get(name, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return member(*args, **kwargs)
            finally:
                self._spent[stage] = self._spent.get(stage, 0.0) + time.perf_counter() - began

        return timed


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds per stage of everything that runs inside the block."""
    original = kernel.load
    spent: dict[str, float] = {}
    kernel.load = lambda: _Watched(original(), spent)
    try:
        yield spent
    finally:
        kernel.load = original


def breakdown(case: Case) -> Record:
    """Seconds of each stage of one forward and backward pass to the values."""
    record = Record("stages", "stages of forward + backward, values only", case.setup.rounds)
    timings: dict[str, Timing] = {}
    case.features(case.weights())
    for _ in range(case.setup.rounds):
        began = time.perf_counter()
        with watched() as spent:
            case.features(case.weights())
        spent["allocation and Python"] = time.perf_counter() - began - sum(spent.values())
        for stage, seconds in spent.items():
            timings.setdefault(stage, Timing()).seconds.append(seconds)
    total = sum(timing.median for timing in timings.values())
    for stage, timing in timings.items():
        timing.cpu_seconds = timing.seconds
        record.sides[stage] = timing.record()
        share = f"{100 * timing.median / total:.0f} %"
        what = f"stage {stage}"
        record.lines.append(Line("stages", what, stage, "", timing.median, "s", notes=share))
    return record


def determinism(case: Case) -> Record:
    """Our adjoint product with sums in a fixed order against sums in any order."""
    what = "fixed order of sums in W^T g"
    record = Record("determinism", what, case.setup.rounds)
    if "deterministic" not in inspect.signature(matrix.apply_t).parameters:
        note = "this build has one order only"
        line = Line("determinism", what, "fixed", "any", None, goal=1.1, better="lower", notes=note)
        record.lines.append(line)
        return record
    weights = case.cached.weights.inner
    threads, maps = case.setup.threads, case.upstream
    sides = {
        "fixed": lambda: matrix.apply_t(weights, maps, threads),
        "any": lambda: matrix.apply_t(weights, maps, threads, deterministic=False),
    }
    fixed, loose = (side() for side in sides.values())
    record.errors["any"] = {"max": float((fixed - loose).abs().max() / fixed.abs().max())}
    timings = interleave(sides, case.setup.rounds)
    record.sides = {side: timing.record() for side, timing in timings.items()}
    ratio = timings["fixed"].median / timings["any"].median
    record.lines.append(
        Line("determinism", what, "fixed", "any", ratio, goal=1.1, better="lower", notes="cost")
    )
    return record
