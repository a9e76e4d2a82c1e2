"""The sides of the GPU comparison: our variants and gsplat's, and how they are timed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.rivals.lists import Inputs
from benchmarks.timing import Side, Timing
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat.rasterize import ViewWeights, rasterize, view_weights
from fit3d_cli.splat.view import View

WARMUP = 3


@dataclass(frozen=True)
class Job:
    """One view on one device.

    Attributes:
        inputs: N Gaussians on the device.
        view: The camera, on the CPU.
        upstream: ``[H, W, D]`` on the device.
    """

    inputs: Inputs
    view: View
    upstream: Tensor

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.upstream.device

    @property
    def gaussians(self) -> Gaussians:
        """Without values; colours are not used."""
        g = self.inputs
        none = g.means.new_zeros(len(g.means), 1, 3)
        return Gaussians(g.means, g.quats, g.scales, g.opacities, none)


def job(inputs: Inputs, view: View, device: torch.device, seed: int) -> Job:
    """Bring a view to a device, with a seeded upstream gradient."""
    generator = torch.Generator().manual_seed(seed)
    shape = view.height, view.width, inputs.values.shape[1]
    upstream = torch.randn(*shape, generator=generator).to(device)
    return Job(Inputs(*(t.to(device) for t in inputs)), view, upstream)


def our_variants(device: torch.device) -> dict[str, dict[str, Any]]:
    """Options of our kernels by name; the CPU has one kind of arithmetic."""
    variants: dict[str, dict[str, Any]] = {"float32": {}}
    if device.type == "cuda":
        variants["tensor"] = {"math": "tensor"}
    return variants


Draw = Callable[[Inputs], Tensor]


def ours(job: Job, **choice: Any) -> Draw:
    """Our rasteriser as a function of its inputs."""
    v = job.view
    return lambda i: rasterize(*i, v.viewmat, v.K, v.width, v.height, **choice).values


def gsplat_draws(job: Job) -> dict[str, Draw]:
    """The public rasteriser of gsplat, both chunk sizes, packed and not; empty if it cannot run."""
    rasterization = load_gsplat(job.device)
    if rasterization is None:
        return {}
    v, device = job.view, job.device
    viewmats, Ks = v.viewmat[None].to(device), v.K[None].to(device)

    def draw(chunk: int, packed: bool) -> Draw:
        def run(i: Inputs) -> Tensor:
            drawn, _, _ = rasterization(
                i.means, i.quats, i.scales, i.opacities, i.values, viewmats, Ks, v.width, v.height,
                near_plane=v.near_plane, far_plane=v.far_plane, eps2d=v.eps2d, packed=packed,
                channel_chunk=chunk,
            )  # fmt: skip
            picture: Tensor = drawn[0]
            return picture

        return run

    return {
        f"gsplat {chunk}{' packed' if packed else ''}": draw(chunk, packed)
        for chunk in (32, 64)
        for packed in (False, True)
    }


def load_gsplat(device: torch.device) -> Callable[..., Any] | None:
    """``gsplat.rasterization`` if its CUDA code is there (or can be compiled), else None."""
    if device.type != "cuda":
        return None
    try:
        from gsplat.cuda._backend import _C
        from gsplat.rendering import rasterization
    except Exception as error:  # its build fails in many ways, none of them ours
        print(f"gsplat is left out: {error}", file=sys.stderr)
        return None
    if _C is None:
        print("gsplat is left out: it has no CUDA code here and cannot build it", file=sys.stderr)
        return None
    found: Callable[..., Any] = rasterization
    return found


def forward(job: Job, draw: Draw) -> Side:
    """The picture, without a graph."""

    def run() -> Tensor:
        with torch.no_grad():
            return draw(job.inputs)

    return run


def step(job: Job, draw: Draw, *, geometry: bool) -> Side:
    """Forward and backward; gradients of the values, or of everything."""

    def run() -> tuple[Tensor | None, ...]:
        leaves = Inputs(*(t.detach().requires_grad_(geometry) for t in job.inputs[:4]),
                        job.inputs.values.detach().requires_grad_())  # fmt: skip
        draw(leaves).backward(job.upstream)
        return tuple(leaf.grad for leaf in leaves)

    return run


def kept_step(job: Job, **choice: Any) -> Side:
    """Forward and backward to the values with W kept."""
    v = job.view
    kept: list[ViewWeights] = []

    def run() -> Tensor:
        if not kept:  # in the warm-up
            kept.append(view_weights(job.gaussians, v.viewmat, v.K, v.width, v.height, **choice))
        values = job.inputs.values.detach().requires_grad_()
        kept[0].apply(values).backward(job.upstream)
        assert values.grad is not None
        return values.grad

    return run


def working(sides: Mapping[str, Side]) -> tuple[dict[str, Side], dict[str, str]]:
    """Try every side once: those that run, and why the others do not.

    One variant that does not fit the device must not cost the table of all others.
    """
    good: dict[str, Side] = {}
    bad: dict[str, str] = {}
    for name, side in sides.items():
        try:
            side()
        except Exception as error:  # another project's, or a device's: any kind
            bad[name] = (str(error).strip().splitlines() or [repr(error)])[0][:120]
            print(f"{name} is left out: {bad[name]}", file=sys.stderr)
        else:
            good[name] = side
    return good, bad


def interleave(
    sides: Mapping[str, Side], rounds: int, device: torch.device, warmup: int = WARMUP
) -> dict[str, Timing]:
    """Time every side once per round: CUDA events on the current stream, or the clock."""
    timings = {name: Timing() for name in sides}
    for number in range(warmup + rounds):
        for name, side in sides.items():
            cpu = time.process_time()
            spent = _timed(side, device)
            if number >= warmup:
                timings[name].seconds.append(spent)
                timings[name].cpu_seconds.append(time.process_time() - cpu)
    return timings


def _timed(side: Side, device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        side()
        return time.perf_counter() - began
    torch.cuda.synchronize(device)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    side()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def peak(side: Side, device: torch.device) -> dict[str, int] | None:
    """Peak of torch's allocations beyond what was held before, None on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    side()
    torch.cuda.synchronize(device)
    highest = torch.cuda.max_memory_allocated(device)
    return {"growth_bytes": highest - before, "peak_bytes": highest}


def fastest(timings: Mapping[str, Timing], start: str) -> str | None:
    """The side with the lowest median among those whose name begins so."""
    names = [name for name in timings if name.startswith(start)]
    return min(names, key=lambda n: statistics.median(timings[n].seconds)) if names else None
