"""The only place that knows torch devices, seeds and thread counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fit3d_cli.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises:
        DeviceError: CUDA was asked for and torch cannot see any.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "no CUDA device is visible to torch",
            where="--device cuda",
            hint="use --device cpu, or install a CUDA build of torch",
        )
    return torch.device(name)


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Run a block with torch's global generators seeded, restoring them afterwards.

    Libraries that we call (gsplat's strategies, timm's initialisers) draw from the global
    generator; everything of ours takes the yielded generator.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed also formats a stack trace for back ends that are not there: half a
        # millisecond, at every step of a fit.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield torch.Generator().manual_seed(seed)


def thread_count() -> int:
    """Threads for the CPU kernels: torch's setting, at most what the process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(torch.get_num_threads(), available or 1))
