"""``fit3d lift``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Backbone, Run, Weights, require

COLUMNS = (
    "scene", "gaussians", "PSNR held-out", "feature cosine held-out", "floor", "ceiling",
    "seconds", "archive",
)  # fmt: skip


def lift(
    run: Run,
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCANS", show_default=False, help="Captures, or folders of captures."
        ),
    ],
    dim: Annotated[
        int | None, typer.Option(metavar="N", help="Feature channels stored per Gaussian.")
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
) -> None:
    """Fit 3D Gaussians to posed photos and put a backbone's features into them.

    Writes WORKSPACE/scenes/NAME.f3d per capture. Finished scenes are recognised and kept.
    """
    resolved = run.resolve(
        {
            "lift.features.dim": ("--dim", dim),
            "lift.backbone.name": ("--backbone", backbone),
            "lift.backbone.weights": ("--weights", weights),
        }
    )
    require(scans, hint="name a capture directory, or a folder of captures")
    if run.dry_run:
        run.show_settings(resolved, {"scans": scans})
        return

    from fit3d_cli.commands import _show
    from fit3d_cli.lifting.lift import lift_captures

    with run.progress() as on_event:
        results = lift_captures(
            scans,
            resolved.settings.lift,
            workspace=run.workspace,
            device=run.device,
            seed=run.seed,
            on_event=on_event,
        )
    failed = [result for result in results if result.error is not None]
    done = [result for result in results if result.error is None]
    if run.as_json:
        run.emit(
            {
                "scenes": [
                    {
                        "name": result.name,
                        "path": result.path,
                        "gaussians": result.gaussians,
                        "psnr_heldout": result.psnr_heldout,
                        "feature_cosine_heldout": result.feature_cosine_heldout,
                        "seconds": result.seconds,
                        "skipped": result.skipped,
                        "error": result.error,
                        "metrics": result.metrics,
                    }
                    for result in results
                ]
            }
        )
    elif done:
        rows = [
            (
                result.name,
                result.gaussians,
                result.psnr_heldout,
                result.feature_cosine_heldout,
                result.metrics.get("floor_cosine"),
                result.metrics.get("ceiling_cosine"),
                "kept" if result.skipped else result.seconds,
                result.path,
            )
            for result in done
        ]
        _show.table(run.out, COLUMNS, rows)
        run.out.write(
            "floor: the nearest training view's tokens; ceiling: the view's own tokens, reduced to"
            " the stored channels\n"
        )
    for result in failed:
        sys.stderr.write(f"fit3d: error: {result.error}\n")
    if done:
        workspace = run.workspace_option()
        run.hint(f"fit3d render {done[0].path}{workspace}, then fit3d finetune{workspace}")
    if failed:
        raise typer.Exit(1 if done else max(result.exit_code for result in failed))
