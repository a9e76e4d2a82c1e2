"""Calls the compiled kernels with one argument wrong at a time; a process that may crash.

What is right is learned from the calls that a small scene makes. Then one array of a call gets
another type, shape, layout or place, or is no array. Ids and offsets keep their values: the
functions before made them, users cannot.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.splat import kernel
from fit3d_cli.splat.rasterize import render_gaussians
from fit3d_cli.splat.similarity import weighted_ssim
from fit3d_cli.splat.weights import view_token_weights

Call = tuple[str, tuple[Any, ...]]


class Recorder:
    """The compiled module, keeping the first calls of each function."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            if sum(name == known for known, _ in self.calls) < 2:
                self.calls.append((name, tuple(_copy(a) for a in args)))
            return found(*args)

        return call


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def right_calls() -> list[Call]:
    """What a small scene calls, forward and backward."""
    recorder = Recorder(kernel.load())
    generator = torch.Generator().manual_seed(0)
    count, width, height = 40, 48, 32
    gaussians = Gaussians(
        (
            torch.rand(count, 3, generator=generator) * 2 - 1 + torch.tensor([0, 0, 4.0])
        ).requires_grad_(),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1),
        (torch.rand(count, 3, generator=generator) * 0.2 + 0.05).requires_grad_(),
        torch.rand(count, generator=generator).requires_grad_(),
        torch.rand(count, 4, 3, generator=generator).requires_grad_(),
    )
    viewmat = torch.eye(4, dtype=torch.float64)
    K = torch.tensor([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]], dtype=torch.float64)
    original, kernel.load = kernel.load, lambda: recorder  # type: ignore[assignment,return-value]
    try:
        rendering = render_gaussians(gaussians, viewmat, K, width, height, sh_degree=1)
        (rendering.rgb.sum() + rendering.weighted_depth.sum()).backward()
        with torch.no_grad():
            rows = view_token_weights(gaussians, viewmat, K, width, height, 4, 6)
            features = torch.rand(count, 5, generator=generator)
            rows.apply_t(rows.apply(features))
        picture = torch.rand(16, 16, 3, generator=generator, requires_grad=True)
        weighted_ssim(
            picture, torch.rand(16, 16, 3, generator=generator), torch.ones(16, 16)
        ).backward()
    finally:
        kernel.load = original
    return [call for call in recorder.calls if any(isinstance(a, torch.Tensor) for a in call[1])]


def wrong(value: torch.Tensor, draw: random.Random) -> tuple[str, Any]:
    """The array with one thing wrong."""
    other = torch.float64 if value.dtype != torch.float64 else torch.float32
    shape = list(value.shape)
    axis = draw.randrange(max(1, value.dim()))

    def resized(by: int) -> torch.Tensor:
        size = shape.copy()
        size[axis] = max(0, size[axis] + by)
        grown = torch.zeros(size, dtype=value.dtype)
        return grown

    ways: dict[str, Callable[[], Any]] = {
        "type": lambda: value.to(other),
        "half": lambda: value.to(torch.float16),
        "bool": lambda: value.to(torch.bool),
        "rank": lambda: value[None],
        "flat": lambda: value.reshape(-1) if value.dim() != 1 else value.reshape(1, -1),
        "scalar": lambda: torch.tensor(1, dtype=value.dtype),
        "empty": lambda: torch.zeros([0] * value.dim(), dtype=value.dtype),
        "shorter": lambda: resized(-1),
        "longer": lambda: resized(1),
        "much shorter": lambda: resized(-max(1, shape[axis] - 1)) if shape else value[None],
        "strided": lambda: torch.cat([value, value], -1)[..., ::2] if value.dim() else value[None],
        "negative": lambda: value.numpy()[::-1],
        "swapped": lambda: value.numpy().astype(value.numpy().dtype.newbyteorder()),
        "nothing": lambda: None,
        "list": lambda: value.tolist(),
        "text": lambda: "array",
        "meta": lambda: torch.empty_like(value, device="meta"),
        "sparse": lambda: value.to_sparse(),
    }
    name = draw.choice(list(ways))
    return name, ways[name]()


def main(count: int, seed: int) -> None:
    """Try, and print what came out as JSON."""
    faulthandler.enable()
    calls, module, draw = right_calls(), kernel.load(), random.Random(seed)
    tally = {"refused": 0, "harmless": 0, "references": 0}
    broken: list[str] = []
    for _ in range(count):
        name, args = draw.choice(calls)
        fresh = [_copy(a) for a in args]
        places = [i for i, a in enumerate(fresh) if isinstance(a, torch.Tensor)]
        place = draw.choice(places)
        way, fresh[place] = wrong(fresh[place], draw)
        held = [a for a in fresh if isinstance(a, torch.Tensor)]
        before = [sys.getrefcount(a) for a in held]
        print(f"{name} argument {place} {way}", file=sys.stderr)
        try:
            getattr(module, name)(*fresh)
            tally["harmless"] += 1
        except (TypeError, ValueError):
            tally["refused"] += 1
        except Exception as error:
            broken.append(f"{name} argument {place} {way}: {type(error).__name__}: {error}")
        after = [sys.getrefcount(a) for a in held]
        tally["references"] += sum(n > m for n, m in zip(after, before, strict=True))
    if tally["references"]:
        broken.append(f"{tally['references']} references lost")
    functions = len({name for name, _ in calls})
    print(json.dumps({"calls": count, "functions": functions, "broken": broken, **tally}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
