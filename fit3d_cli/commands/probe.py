"""``fit3d probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Backbone, Run, Weights, require
from fit3d_cli.commands.compare import require_model
from fit3d_cli.errors import DatasetError


def probe(
    run: Run,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK", show_default=False,
            help="seg, depth, corr, cls, transfer, track or pose.",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", show_default=False,
            help="E.g. camvid, ade20k, rooms; for depth and corr any RGB-D capture; for corr also "
            "a lifted scene.",
        ),
    ],
    models: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Any of base,tuned,concat,sum,fused."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the dataset lies.")
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tuned model (newest of the workspace).")
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
) -> None:  # fmt: skip
    """Measure frozen features of base, tuned and both; print figures with their uncertainty.

    Prints the figures that a task is judged by; -v prints all, the report holds all.
    """
    resolved = run.resolve(
        {
            "probe.models": ("--models", models),
            "probe.data": ("--data", None if data is None else str(data)),
            "probe.tuned": ("--tuned", None if tuned is None else str(tuned)),
            "probe.backbone.name": ("--backbone", backbone),
            "probe.backbone.weights": ("--weights", weights),
        }
    )
    require([data] if data else [], hint="name the dataset's folder", error=DatasetError)
    require_model(run, tuned)
    if run.dry_run:
        run.show_settings(resolved, {"task": task, "dataset": dataset})
        return

    from fit3d_cli.commands import _figures
    from fit3d_cli.probing.run import run_probe

    with run.progress() as on_event:
        probed = run_probe(
            task,
            dataset,
            resolved.settings.probe,
            workspace=run.workspace,
            device=run.device,
            seed=run.seed,
            on_event=on_event,
        )
    if run.as_json:
        run.emit({**probed.report.to_dict(), "path": probed.path, "page": probed.page})
    else:
        _figures.show(run.out, probed.report, every=run.verbose > 0)
        run.out.write(f"report: {probed.path}\npage: {probed.page}\n")
    run.hint(f"fit3d compare{run.workspace_option()}")
