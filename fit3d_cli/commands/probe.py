"""``fit3d probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Backbone, Run, Weights, require
from fit3d_cli.errors import DatasetError, SettingsError


def probe(
    run: Run,
    task: Annotated[str, typer.Argument(metavar="TASK", show_default=False, help="seg or depth.")],
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            show_default=False,
            help="E.g. camvid, ade20k, rooms; for depth any RGB-D capture.",
        ),
    ],
    models: Annotated[
        str | None, typer.Option(metavar="LIST", help="Any of base,tuned,concat.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the dataset lies.")
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tuned model (newest of the workspace).")
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
) -> None:
    """Train linear heads on frozen features of base, tuned and both; print the scores."""
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
    require([tuned] if tuned else [], hint="name a model directory", error=SettingsError)
    if run.dry_run:
        run.show_settings(resolved, {"task": task, "dataset": dataset})
        return

    from fit3d_cli.commands import _show
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
    report = probed.report
    if run.as_json:
        run.emit({**report.to_dict(), "path": probed.path})
    else:
        names = list(dict.fromkeys(name for row in report.rows for name in row.metrics))
        rows = [(row.model, *(row.metrics.get(name) for name in names)) for row in report.rows]
        _show.table(run.out, ("model", *names), rows)
        for note in report.notes:
            run.out.write(f"note: {note}\n")
        run.out.write(f"report: {probed.path}\n")
    run.hint(f"fit3d compare{run.workspace_option()}")
