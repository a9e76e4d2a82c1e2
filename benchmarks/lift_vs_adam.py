"""How much faster the closed-form lift is than FiT3D's Adam schedule, on the same frozen geometry.

    python benchmarks/lift_vs_adam.py WORKSPACE SCENE [--steps 500] [--threads 2]

Both sides start from the archive's Gaussians and the cached tokens, and are scored on the same
held-out views by the same function. Adam's 30,000 steps are extrapolated from ``--steps`` timed
ones; its error is what it has reached after them. As FiT3D's learning rate hardly moves in so few
steps, a second Adam runs with a hundred times the rate, which favours it. Prints a table and one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.cache import TokenCache
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.capture.read import read_capture
from fit3d_cli.geometry.cameras import stack_cameras
from fit3d_cli.lifting.features import heldout_features, solve_features, token_weights, view_tokens
from fit3d_cli.lifting.paper import lift_by_adam
from fit3d_cli.progress import ignore
from fit3d_cli.settings import FeatureSettings
from fit3d_cli.workspace import Workspace

PAPER_STEPS = 30_000


def main() -> None:
    """Run both sides and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("scene")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = Workspace(options.workspace)
    scene = read_archive(place.scene_path(options.scene))
    capture = read_capture(place.capture_dir(scene.name), name=scene.name)
    by_name = {view.name: view for view in capture.views}
    capture = replace(capture, views=tuple(by_name[name] for name in scene.names))
    source = scene.source
    backbone = load_backbone(source.backbone, weights=place.weights_of(source.weights_sha256))
    size = (source.width, source.height)
    tokens = view_tokens(
        capture, backbone, size, cache=TokenCache(place.cache_dir / "tokens"), batch=4,
        device="cpu", on_event=ignore, stage="",
    )  # fmt: skip
    cameras = stack_cameras([scene.cameras[i].resized(*size) for i in range(len(scene.names))])
    train, heldout = scene.views(heldout=False), scene.views(heldout=True)
    dim = scene.decoder.in_dim
    rows = []

    began = time.perf_counter()
    weights = token_weights(scene.gaussians, cameras, source.grid, ignore, "")
    solved = solve_features(weights, tokens, train, FeatureSettings(dim=dim), ignore, "")
    seconds = time.perf_counter() - began
    rows.append(_row("closed form", seconds, seconds, solved, weights, tokens, cameras, scene))
    for label, rate in (("Adam, paper's rate", 6.25e-5), ("Adam, 100 x the rate", 6.25e-3)):
        settings = FeatureSettings(dim=dim, paper_iterations=options.steps, paper_lr=rate)
        began = time.perf_counter()
        lifted = lift_by_adam(scene.gaussians, cameras, tokens, train, settings, 0, ignore, "")
        seconds = time.perf_counter() - began
        whole = seconds * PAPER_STEPS / options.steps
        print(f"{label}: {seconds / options.steps:.2f} s a step", file=sys.stderr)
        rows.append(_row(label, seconds, whole, lifted, weights, tokens, cameras, scene))

    print(
        f"{scene.name}: {len(scene.gaussians)} Gaussians, {len(train)} training views, "
        f"{size[0]}x{size[1]}, d = {dim}, C = {source.dim}, {options.threads} threads"
    )
    print(f"Adam timed over {options.steps} steps, extrapolated to {PAPER_STEPS}")
    for row in rows:
        print(
            f"{row['side']:22} {row['seconds']:8.1f} s measured {row['whole_seconds']:9.1f} s whole"
            f"   cosine {row['feature_cosine']:.4f}   L1 {row['feature_l1']:.4f}"
        )
    ratio = rows[1]["whole_seconds"] / rows[0]["whole_seconds"]
    print(f"ratio: {ratio:.0f} x ({len(heldout)} held-out views)")
    print(json.dumps({"scene": scene.name, "steps": options.steps, "rows": rows, "ratio": ratio}))


def _row(label, seconds, whole, lifted, weights, tokens, cameras, scene):  # type: ignore[no-untyped-def]
    """One line of the table."""
    figures = heldout_features(
        lifted, weights, tokens, cameras, scene.views(heldout=True), scene.views(heldout=False)
    )
    return {"side": label, "seconds": seconds, "whole_seconds": whole, **figures}


if __name__ == "__main__":
    main()
