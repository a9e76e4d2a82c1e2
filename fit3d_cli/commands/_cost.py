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
WEIGHTS_BYTES = 500  # of blending weights per token
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
class LiftJob:
    """The sizes that decide what lifting one capture takes.

    Attributes:
        views: Photos.
        stored: Pixels of a stored photo.
        fitted: Pixels of a photo as the geometry is fitted to it.
        first: Gaussians at the start.
        gaussians: At the end.
        tokens: Of a view.
        dim: Channels stored per Gaussian, d.
        steps: Of the geometry.
        model: The backbone.
        sh: Colour coefficients per Gaussian.
        budget: Bytes of blending weights kept in memory.
    """

    views: int
    stored: int
    fitted: int
    first: int
    gaussians: int
    tokens: int
    dim: int
    steps: int
    model: ModelFacts
    sh: int
    budget: int

    @classmethod
    def of(
        cls, views: Sequence[tuple[int, int]], settings: LiftSettings, model: ModelFacts
    ) -> LiftJob:
        """From the photos' ``(width, height)`` and the settings."""
        geometry, width, height = settings.geometry, *views[0]
        fitted = min(geometry.width, width)
        columns = max(1, round(settings.backbone.width / model.patch_size))
        rows = max(1, round(columns * height / width))
        # Densification fills most of the budget where there is time for it.
        grown = 0.5 * (geometry.init_gaussians + geometry.max_gaussians)
        long_enough = geometry.densify and geometry.iterations > 2 * geometry.densify_start
        gaussians = min(
            round(grown) if long_enough else geometry.init_gaussians, geometry.max_gaussians
        )
        return cls(
            len(views), width * height, fitted * round(fitted * height / width),
            min(geometry.init_gaussians, geometry.max_gaussians), gaussians,
            rows * columns, settings.features.dim, geometry.iterations, model,
            3 * (geometry.sh_degree + 1) ** 2, settings.features.memory << 20,
        )  # fmt: skip

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

    def memory(self) -> int:
        """Bytes at the peak."""
        photos = 8 * self.views * self.fitted
        # Values, gradients, two moments and the copies of a step.
        fitting = 6 * 4 * self.gaussians * (11 + self.sh)
        tokens = 4 * self.views * self.tokens * (self.model.dim + 2 * self.dim)
        weights = min(self.budget, WEIGHTS_BYTES * self.views * self.tokens)
        solving = 6 * 4 * self.gaussians * self.dim + weights
        return BASELINE + 4 * self.model.params + photos + max(fitting, tokens + solving)

    def disk(self) -> int:
        """Bytes of the archive and of the caches."""
        archive = self.gaussians * (4 * (11 + self.sh) + 2 * self.dim)
        tokens = 2 * self.views * (self.tokens + 1) * self.model.dim
        checkpoint = 3 * 4 * self.gaussians * (11 + self.sh)
        return archive + tokens + checkpoint
