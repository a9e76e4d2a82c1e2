"""How much faster the closed-form lift is than FiT3D's Adam schedule, on the same frozen geometry.

    python -m benchmarks.lift_vs_adam --workspace DIR --scene FILE.f3d [--steps 500]

Both sides start from the archive's Gaussians and the cached tokens, and are scored on the same
held-out views by the same function. Adam's 30,000 steps are extrapolated from ``--steps`` timed
ones; its error is what it has reached after them. As FiT3D's learning rate hardly moves in so few
steps, a second Adam runs with a hundred times the rate, which favours it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, options, results, tokens
from benchmarks.options import Setup
from benchmarks.results import Line, Record
from benchmarks.timing import Timing
from fit3d_cli.lifting.features import Lifted, heldout_features, solve_features, token_weights
from fit3d_cli.lifting.paper import lift_by_adam
from fit3d_cli.progress import ignore
from fit3d_cli.settings import FeatureSettings

PAPER_STEPS, LEAST_STEPS = 30_000, 500
RATES = {"Adam, paper's rate": 6.25e-5, "Adam, 100 x the rate": 6.25e-3}


def run(setup: Setup, steps: int) -> dict[str, Any]:
    """Both sides, once; progress goes to stderr.

    Args:
        setup: With a scene and a workspace.
        steps: Adam steps to time.
    """
    if not (setup.workspace and setup.scene):
        raise SystemExit("lift_vs_adam needs --workspace and --scene: real tokens to score on")
    before = machine.describe(setup.threads)
    given = tokens.from_workspace(Path(setup.workspace), Path(setup.scene))
    dim, cameras = setup.dim, given.cameras
    weights = token_weights(
        given.gaussians, cameras, given.grid, ignore, "", apart=given.heldout
    )  # of all views, to score on; the timed lift makes its own
    record = Record("adam", "lift against Adam", 1, extra={"steps": steps, "paper": PAPER_STEPS})

    def side(name: str, lift: Callable[[], Lifted], factor: float) -> tuple[float, dict[str, Any]]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        lifted = lift()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        record.sides[name] = Timing([wall], [cpu]).record()
        figures = heldout_features(
            lifted, weights, given.tokens, cameras, given.heldout, given.train
        )
        record.extra[name] = {"whole_s": wall * factor, **figures}
        return wall * factor, figures

    def closed() -> Lifted:
        own = token_weights(given.gaussians, cameras, given.grid, ignore, "", views=given.train)
        return solve_features(own, given.tokens, given.train, FeatureSettings(dim=dim), ignore, "")

    whole, ours = side("closed form", closed, 1.0)
    for name, rate in RATES.items():
        settings = FeatureSettings(dim=dim, paper_iterations=steps, paper_lr=rate)

        def adam(settings: FeatureSettings = settings) -> Lifted:
            return lift_by_adam(
                given.gaussians, cameras, given.tokens, given.train, settings, setup.seed,
                ignore, "",
            )  # fmt: skip

        theirs_whole, theirs = side(name, adam, PAPER_STEPS / steps)
        # A few steps give no step time, and only the whole schedule has an error to compare with.
        enough, whole_run = steps >= LEAST_STEPS, steps >= PAPER_STEPS
        scores = f"cosine {ours['feature_cosine']:.4f} / {theirs['feature_cosine']:.4f}"
        record.lines += [
            Line(
                "adam",
                f"lift of {len(given.train)} views",
                "closed form",
                name,
                theirs_whole / whole,
                goal=100.0 if enough else None,
                notes=f"{steps} steps timed, extrapolated to {PAPER_STEPS}",
            ),
            Line(
                "adam",
                f"held-out L1, ours / Adam's after {steps} steps",
                "",
                name,
                ours["feature_l1"] / theirs["feature_l1"],
                goal=1.0 if whole_run else None,
                better="lower",
                notes=scores + ("" if whole_run else f"; no verdict before {PAPER_STEPS} steps"),
            ),
        ]
    about = {
        "kind": "lift against Adam", "name": given.name, "gaussians": len(given.gaussians),
        "train_views": len(given.train), "heldout_views": len(given.heldout),
    }  # fmt: skip
    return results.report("adam", before, setup.to_json(), about, [record])


def main() -> None:
    """Run both sides and print the table."""
    made = options.parser(__doc__ or "")
    made.add_argument("--steps", type=int, default=500, help="Adam steps to time")
    parsed = made.parse_args()
    options.finish(run(options.setup_from(parsed), parsed.steps), parsed.out)


if __name__ == "__main__":
    main()
