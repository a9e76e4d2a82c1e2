"""``fit3d lift``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Backbone, Run, Weights, require

COLUMNS = (
    "scene", "gaussians", "PSNR held-out", "feature cosine held-out", "floor", "ceiling",
    "seconds", "archive",
)  # fmt: skip

STAGES = ("read capture", "photos", "geometry", "held-out views", " tokens", "blending weights",
          "features")  # fmt: skip


def lift(
    run: Run,
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCANS",
            show_default=False,
            help="Captures, photos, videos, .sens, .r3d, or folders of them.",
        ),
    ],
    dim: Annotated[
        int | None, typer.Option(metavar="N", help="Feature channels stored per Gaussian.")
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    gaussians: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Put features into these Gaussians (.ply, .spz, .splat) without training.",
        ),
    ] = None,
) -> None:
    """Fit 3D Gaussians to photos and put a backbone's features into them.

    Writes WORKSPACE/scenes/NAME.f3d per capture. Finished scenes are recognised and kept. Videos,
    containers and photos without poses become a capture in WORKSPACE/captures first. Of several
    captures, one that fails, crashes or hangs does not stop the others.
    """
    resolved = run.resolve(
        {
            "lift.features.dim": ("--dim", dim),
            "lift.backbone.name": ("--backbone", backbone),
            "lift.backbone.weights": ("--weights", weights),
            "lift.geometry.ply": ("--gaussians", str(gaussians) if gaussians else None),
            "lift.geometry.init": ("--gaussians", "ply" if gaussians else None),
            "lift.geometry.iterations": ("--gaussians", 0 if gaussians else None),
        }
    )
    require(scans, hint="name a capture, a folder of photos, a video, or a folder of them")
    if run.dry_run:
        from fit3d_cli.capture.sources.find import check_names, find_scans
        from fit3d_cli.commands._estimate import estimate_lift

        reader = resolved.settings.lift.reader
        found = [scan for path in scans for scan in find_scans(path, reader)]
        check_names(found)
        known = {f"scan {scan.name}": scan.describe() for scan in found}
        estimate = estimate_lift(run, resolved.settings.lift, found)
        run.show_settings(resolved, {"scans": scans, **known}, estimate)
        return

    from fit3d_cli.commands import _show
    from fit3d_cli.lifting.lift import lift_captures

    with run.progress(STAGES) as on_event:
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
                        "attempts": result.attempts,
                        "log": result.log,
                        "metrics": result.metrics,
                        "notes": result.notes,
                        "source": result.source,
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
        for result in done:
            for note in result.notes:
                run.out.write(f"{result.name}: {note}\n")
        run.out.write(
            "floor: the nearest training view's tokens; ceiling: the view's own tokens, reduced to"
            " the stored channels\n"
        )
    for result in failed:
        sys.stderr.write(f"fit3d: error: {result.error}\n")
    if done:
        workspace = run.workspace_option()
        run.hint(
            f"fit3d viz {shlex.quote(str(done[0].path))}{workspace}  (click in it), then fit3d "
            f"finetune{workspace}"
        )
    if failed:
        raise typer.Exit(1 if done else max(result.exit_code for result in failed))
