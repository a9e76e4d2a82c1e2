"""The only place that knows torch devices, seeds, thread counts and how much memory is left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


def available_memory() -> int | None:
    """Bytes that this process may still take without swapping; None where nobody says.

    The least of what the system has free, what its control group has left (containers) and what
    its limit on addresses (``ulimit -v``) leaves.
    """
    known = [_system_memory(), _group_memory(), _address_space()]
    return min((bytes_ for bytes_ in known if bytes_ is not None), default=None)


def _system_memory() -> int | None:
    """``MemAvailable``: free, or given back by caches."""
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"))
        return int(found[1]) << 10 if found else None
    return None


def _group_memory(root: Path = Path("/")) -> int | None:
    """What the limits of the control groups leave, from this process's own up to the root's."""
    left: list[int] = []
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, kinds, inner = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            base = Path(root, "sys/fs/cgroup", "memory" if kinds else "")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else (
                "memory.max", "memory.current")  # fmt: skip
            group = base / inner.strip("/")
            # In a container the own group may be mounted as the root.
            for folder in (base, *(p for p in (group, *group.parents) if p.is_relative_to(base))):
                with suppress(OSError, ValueError):
                    limit = int((folder / names[0]).read_text("utf-8"))  # "max" is no limit
                    used = int((folder / names[1]).read_text("utf-8"))
                    # Cached files count as used but are given back when memory is asked for.
                    cached = re.search(
                        r"^(?:total_)?inactive_file (\d+)$",
                        (folder / "memory.stat").read_text("utf-8"), re.MULTILINE,
                    )  # fmt: skip
                    left.append(max(limit - used + (int(cached[1]) if cached else 0), 0))
    return min(left, default=None)


def _address_space() -> int | None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        return max(limit - pages * resource.getpagesize(), 0)
    return None
