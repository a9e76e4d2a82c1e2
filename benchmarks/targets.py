"""Fine-tuning targets: at token resolution against render, decode, shrink.

    python -m benchmarks.targets [--scene FILE.f3d] [--out targets.json]

``fresh`` makes W pooled onto the token grid, renders and decodes tokens: a scene's first use.
``again`` decodes the map that was kept: every later step of a fine-tuning run. The rival renders
with our kernel and decodes every pixel. 192 channels is ViT-Ti, 384 ViT-S.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine, memory, options, results, scenes
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.rivals import shrink
from benchmarks.splat import Figure
from benchmarks.timing import interleave
from fit3d_cli.decoders import Decoder
from fit3d_cli.splat.weights import view_token_weights, view_weights

CHANNELS = (192, 384)


class Case:
    """One view, one decoder."""

    def __init__(self, scene: scenes.BenchScene, view: int, channels: int, seed: int) -> None:
        self.scene, self.view = scene, scene.view(view)
        self.patch = self.view.height // scene.grid[0]
        own = scene.decoder
        self.decoder = own if own and own.out_dim == channels else _decoder(scene, channels, seed)
        self._maps: Tensor | None = None

    def _tokens(self) -> Tensor:
        v = self.view
        made = view_token_weights(
            self.scene.gaussians, v.viewmat, v.K, v.width, v.height, *self.scene.grid
        )
        return made.apply(self.scene.features)

    @torch.no_grad()
    def fresh(self) -> Tensor:
        """Everything at token resolution."""
        return self.decoder(self._tokens()[None])[0]

    @torch.no_grad()
    def again(self) -> Tensor:
        """Decode the map that was kept."""
        if self._maps is None:
            self._maps = self._tokens()
        return self.decoder(self._maps[None])[0]

    def pixels(self) -> Tensor:
        """``[H, W, d]`` rendered features."""
        v = self.view
        made = view_weights(self.scene.gaussians, v.viewmat, v.K, v.width, v.height)
        return made.apply(self.scene.features)

    @torch.no_grad()
    def shrink(self) -> Tensor:
        """Render, decode, shrink."""
        return shrink.decode_and_shrink(self.pixels(), self.decoder, self.patch)

    @torch.no_grad()
    def exact(self) -> Tensor:
        """As ``shrink``, decoded and averaged in double precision."""
        return shrink.exact(self.pixels(), self.decoder, self.patch)


def _decoder(scene: scenes.BenchScene, channels: int, seed: int) -> Decoder:
    """A seeded decoder whose outputs have a spread of about one."""
    generator = torch.Generator().manual_seed(seed)
    d = scene.features.shape[1]
    spread = float(scene.features.std()) * (9 * d) ** 0.5
    weight = torch.randn(channels, d, 3, 3, generator=generator) / spread
    return Decoder(weight, torch.randn(channels, generator=generator))


def figures(setup: Setup) -> dict[str, Figure]:
    """One figure per number of channels."""
    scene = scenes.load(setup)
    setup = scenes.settle_view(scene, setup)
    made = {}
    for channels in CHANNELS:
        name = f"targets_{channels}"
        if setup.wants(name):
            case = Case(scene, setup.view, channels, setup.seed)
            sides = {
                "fresh": case.fresh,
                "again": case.again,
                "shrink": case.shrink,
                "exact": case.exact,
            }
            made[name] = Figure(f"targets, {channels} channels", sides, {"shrink": 20.0})
    return made


def measure(setup: Setup, name: str, figure: Figure) -> Record:
    """Time, memory and difference of one number of channels."""
    record = Record(name, figure.what, setup.rounds)
    exact = figure.sides["exact"]().double()
    for side in ("fresh", "again", "shrink"):
        worst = float((figure.sides[side]() - exact).abs().max())
        record.errors[side] = {"absolute": worst, "max": worst / float(exact.abs().max())}
    timed = {side: call for side, call in figure.sides.items() if side != "exact"}
    timings = interleave(timed, setup.rounds)
    for side, timing in timings.items():
        record.sides[side] = timing.record()
        if setup.memory and side != "again":
            apart = memory.measure_apart("benchmarks.targets", name, side, setup.to_json())
            record.sides[side]["memory"] = apart
    for ours in ("fresh", "again"):
        ratio = timings["shrink"].median / timings[ours].median
        goal = figure.goals["shrink"]
        record.lines.append(Line(name, f"{figure.what}, time", ours, "shrink", ratio, goal=goal))
    grown = {
        side: record.sides[side]["memory"]["growth_bytes"]
        for side in ("fresh", "shrink")
        if record.sides[side].get("memory")
    }
    ratio = grown["shrink"] / max(grown["fresh"], 1) if len(grown) == 2 else None
    record.lines += [
        Line(name, f"{figure.what}, memory", "fresh", "shrink", ratio, goal=20.0),
        Line(
            name, f"{figure.what}, largest difference", "fresh", "exact",
            record.errors["fresh"]["absolute"], "abs", goal=1e-4, better="lower",
            notes=f"float32 shrink: {record.errors['shrink']['absolute']:.1e}",
        ),
    ]  # fmt: skip
    return record


def run(setup: Setup) -> dict[str, Any]:
    """Measure everything; progress goes to stderr."""
    before = machine.describe(setup.threads)
    records = []
    scene = scenes.load(setup)
    setup = scenes.settle_view(scene, setup)
    for name, figure in figures(setup).items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        records.append(measure(setup, name, figure))
    about = scenes.statistics(scene, scene.view(setup.view))
    return results.report("targets", before, setup.to_json(), {**scene.origin, **about}, records)


def main() -> None:
    """Run and print the table."""
    parsed = options.parser(__doc__ or "").parse_args()
    options.finish(run(options.setup_from(parsed)), parsed.out)


if __name__ == "__main__":
    main()
