"""Lifting 100 views into a frozen scene: seconds, memory, and against the backbone's own pass.

    python -m benchmarks.lift [--scene FILE.f3d] [--workspace DIR] [--out lift.json]

A lift is weights, basis, solver and decoder as ``fit3d lift`` runs them, tokens given: the
backbone's with ``--workspace``, else a stand-in of 384 channels made from the scene. Every repeat
is a fresh process, whose peak resident set counts with everything in it: Python, torch, scene,
tokens. Three repeats unless ``--rounds`` says otherwise. The backbone's pass is timed over four
pictures in batches of 1 and of 4, the faster one counts, and is extrapolated to 100.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, memory, options, results, tokens
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.timing import Timing
from fit3d_cli.backbones.torchvision_shim import import_timm
from fit3d_cli.lifting.features import solve_features, token_weights
from fit3d_cli.progress import ignore
from fit3d_cli.settings import FeatureSettings

VIEWS, ROUNDS, PICTURES = 100, 3, 4
BACKBONES = ("vit_small_patch14_dinov2", "vit_tiny_patch16_224")


def material(setup: Setup) -> tokens.Material:
    """100 views to learn from (6 with ``--quick``), or as many as the scene has."""
    views = 6 if setup.quick else VIEWS
    if setup.workspace and setup.scene:
        found = tokens.from_workspace(Path(setup.workspace), Path(setup.scene))
        return replace(found, train=found.train[:views], heldout=[])
    return tokens.stand_in(setup, views, 32 if setup.quick else 384)


def once(setup: Setup) -> dict[str, Any]:
    """One lift in this process."""
    given = material(setup)
    memory.reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    cameras, learn = given.cameras[given.train], list(range(len(given.train)))
    weights = token_weights(given.gaussians, cameras, given.grid, ignore, "")
    made = time.perf_counter() - wall
    kept = [given.tokens[i] for i in given.train]
    settings = FeatureSettings(dim=setup.dim)
    lifted = solve_features(weights, kept, learn, settings, ignore, "")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "stages": {"weights": made, **lifted.seconds},
        "peak_bytes": memory.resident().get("VmHWM"),
        "finite": bool(torch.isfinite(lifted.features).all()),
        "views": len(learn),
        "gaussians": len(given.gaussians),
        "grid": list(given.grid),
        "channels": int(kept[0].shape[-1]),
        "scene": given.name,
        "real_tokens": given.real,
    }


def backbone_seconds(name: str, width: int, height: int, setup: Setup) -> dict[str, Any]:
    """Seconds for one picture through a ViT of timm, random weights, width and height rounded."""
    patch = 14 if "patch14" in name else 16
    size = (height // patch * patch, width // patch * patch)
    model = import_timm().create_model(name, pretrained=False, img_size=size, num_classes=0).eval()
    per_picture: dict[int, list[float]] = {}
    with torch.inference_mode():
        for batch in (1, PICTURES):
            pictures = torch.randn(batch, 3, *size)
            for repeat in range(1 + PICTURES // batch):
                began = time.perf_counter()
                model.forward_features(pictures)
                if repeat:
                    spent = (time.perf_counter() - began) / batch
                    per_picture.setdefault(batch, []).append(spent)
    medians = {batch: sorted(times)[len(times) // 2] for batch, times in per_picture.items()}
    return {
        "name": name, "size": list(size), "weights": "random", "per_picture_s": medians,
        "best_s": min(medians.values()), "pictures": PICTURES,
    }  # fmt: skip


def run(setup: Setup) -> dict[str, Any]:
    """Measure lifts and backbones; progress goes to stderr."""
    before = machine.describe(setup.threads)
    record = Record("lift", "lift", setup.rounds)
    timing, runs = Timing(), []
    for number in range(setup.rounds):
        print(f"lift {number + 1} of {setup.rounds} ...", file=sys.stderr, flush=True)
        words = ["-m", "benchmarks.lift", "--child", json.dumps(setup.to_json())]
        done = subprocess.run(
            [sys.executable, *words], cwd=machine.ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"lift: {done.stderr.strip()[-2000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        timing.seconds.append(runs[-1]["seconds"])
        timing.cpu_seconds.append(runs[-1]["cpu_seconds"])
    record.sides["lift"] = timing.record()
    record.extra = {"runs": runs, "backbones": []}
    first, peaks = runs[0], [r["peak_bytes"] for r in runs if r["peak_bytes"]]
    record.what = (
        f"lift {first['views']} views {setup.width}x{setup.height} into {first['gaussians']}, "
        f"{setup.dim}-d"
    )
    kind = f"tokens of {first['channels']} channels" + ("" if first["real_tokens"] else ", made up")
    peak = max(peaks) / 1e9 if peaks else None
    record.lines += [
        Line("lift", record.what, "lift", "", timing.median, "s", 30.0, "lower", kind),
        Line("lift", "lift, peak resident set", "", "", peak, "GB", 2.0, "lower"),
    ]
    for name in BACKBONES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        spent = backbone_seconds(name, setup.width, setup.height, setup)
        record.extra["backbones"].append(spent)
        ratio = spent["best_s"] * first["views"] / timing.median
        pass_ = f"{name} {spent['best_s']:.2f} s a picture"
        note = f"extrapolated from {PICTURES} pictures"
        record.lines.append(
            Line("lift", "lift against the backbone's pass", "lift", pass_, ratio, "x", 1.0,
                 notes=note)
        )  # fmt: skip
    about = {"kind": "lift", "name": first["scene"], "gaussians": first["gaussians"]}
    return results.report("lift", before, setup.to_json(), about, [record])


def main() -> None:
    """Run and print the table, or one lift for a parent process."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(once(Setup.from_json(sys.argv[2]))))
        return
    parsed = options.parser(__doc__ or "").parse_args()
    if parsed.rounds is None:
        parsed.rounds = 1 if parsed.quick else ROUNDS
    options.finish(run(options.setup_from(parsed)), parsed.out)


if __name__ == "__main__":
    main()
