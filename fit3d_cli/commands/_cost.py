"""How long the parts of a job take and how much room they need: the model behind ``--dry-run``.

The machine is timed for a third of a second (a matrix product); every other rate is a constant,
measured on one core of a server (AVX2) and scaled by that time. It stands for an otherwise idle
machine; ``docs/benchmarks.md`` says how far off it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fit3d_cli.lifting.preflight import LiftSizes, lift_sizes

if TYPE_CHECKING:
    from fit3d_cli.backbones.facts import ModelFacts
    from fit3d_cli.settings import LiftSettings

# CPU seconds on the reference core, whose matrix product reaches REFERENCE_RATE.
REFERENCE_RATE = 160e9  # floating-point operations per second
STEP = 1.5e-3  # of a geometry step, whatever its size
STEP_PIXEL = 4e-7  # per pixel of a geometry step
STEP_GAUSSIAN = 4e-7  # per Gaussian of a geometry step
FIRST_GAUSSIAN = 5e-5  # per Gaussian at the start: its neighbours decide its size
READ_PIXEL = 2.4e-7  # per stored pixel: hashing, decoding and shrinking a photo, and its depth
VIT_SHARE = 0.5  # of the matrix rate that a ViT's forward pass reaches
WEIGHTS_VIEW = 4e-3  # of a view's blending weights
WEIGHTS_PIXEL = 1.1e-7  # per pixel, at the size that the backbone sees
WEIGHTS_GAUSSIAN = 4e-7  # per Gaussian and view
SOLVE_TOKEN = 1.2e-6  # per token and stored channel of solving for the features
BASELINE = 450 << 20  # bytes of the libraries
_CALIBRATION = 0.3  # seconds


@dataclass(frozen=True)
class Machine:
    """How fast this machine is.

    Attributes:
        rate: Floating-point operations per second of one thread.
        threads: Threads that compute.
        cuda: Whether a GPU computes.
    """

    rate: float
    threads: int
    cuda: bool

    @classmethod
    def of(cls, device: str) -> Machine:
        """Time it.

        Raises:
            DeviceError: The device is absent.
        """
        import torch

        from fit3d_cli.device import resolve_device, thread_count

        if resolve_device(device).type == "cuda":
            return cls(REFERENCE_RATE, 1, True)
        threads = torch.get_num_threads()
        size = 256  # fits into a core's own cache: other programs disturb it least
        a = torch.rand(size, size)
        best = float("inf")
        torch.set_num_threads(1)
        try:
            began = time.monotonic()
            while time.monotonic() - began < _CALIBRATION:
                start = time.perf_counter()
                a @ a
                best = min(best, time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
        return cls(2 * size**3 / best, thread_count(), False)

    def wall(self, cpu_seconds: float) -> float:
        """Seconds here of what takes ``cpu_seconds`` on the reference core."""
        return cpu_seconds * REFERENCE_RATE / self.rate / max(1.0, 0.85 * self.threads)


@dataclass(frozen=True)
class LiftJob(LiftSizes):
    """The sizes that decide what lifting one capture takes.

    Attributes:
        steps: Of the geometry.
        model: The backbone.
    """

    steps: int
    model: ModelFacts

    @classmethod
    def of(
        cls, views: Sequence[tuple[int, int]], settings: LiftSettings, model: ModelFacts
    ) -> LiftJob:
        """From the photos' ``(width, height)`` and the settings."""
        sizes = lift_sizes(views, settings, model.patch_size, model.dim)
        return cls(**vars(sizes), steps=settings.geometry.iterations, model=model)

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Wall time per stage."""
        step = STEP + STEP_PIXEL * self.fitted + STEP_GAUSSIAN * self.gaussians
        all_tokens, seen = self.views * self.tokens, self.tokens * self.model.patch_size**2
        return {
            "photos": machine.wall(
                READ_PIXEL * self.views * self.stored + FIRST_GAUSSIAN * self.first
            ),
            "geometry": machine.wall(step * self.steps),
            "tokens": machine.wall(
                self.views * self.model.flops(self.tokens) / (REFERENCE_RATE * VIT_SHARE)
            ),
            "features": machine.wall(
                self.views * (WEIGHTS_VIEW + WEIGHTS_PIXEL * seen)
                + WEIGHTS_GAUSSIAN * self.views * self.gaussians
                + SOLVE_TOKEN * all_tokens * self.dim
            ),
        }

    def whole_memory(self) -> int:
        """Bytes at the peak, libraries and backbone included."""
        return BASELINE + 4 * self.model.params + self.memory()
