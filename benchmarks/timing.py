"""Sides of a comparison, timed in turn: A B A B, so that a busy machine hurts them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Side = Callable[[], object]


@dataclass
class Timing:
    """Repeats of one side.

    Attributes:
        seconds: Wall time of each repeat.
        cpu_seconds: Processor time of all threads in each repeat.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median wall time in seconds."""
        return statistics.median(self.seconds)

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        low, middle, high = quartiles(self.seconds)
        return {
            "median_s": middle,
            "q1_s": low,
            "q3_s": high,
            "cpu_median_s": statistics.median(self.cpu_seconds),
            "seconds": self.seconds,
        }


def quartiles(numbers: list[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(numbers) == 1:
        return numbers[0], numbers[0], numbers[0]
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, middle, high


def interleave(sides: Mapping[str, Side], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time every side once per round, in the same order each time.

    Args:
        sides: What to call.
        rounds: Timed repeats of each side.
        warmup: Untimed rounds before.
    """
    timings = {name: Timing() for name in sides}
    for number in range(warmup + rounds):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= warmup:
                timings[name].seconds.append(wall)
                timings[name].cpu_seconds.append(cpu)
    return timings
