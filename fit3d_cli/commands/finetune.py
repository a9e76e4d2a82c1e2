"""``fit3d finetune``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Backbone, Run, Weights, require
from fit3d_cli.errors import ArchiveError, SettingsError

_GRACE = 1.0  # seconds


def finetune(
    run: Run,
    scenes: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCENES", show_default=False, help="Archives (all of the workspace)."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the views.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="STEP", help="AdamW step size.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Writes WORKSPACE/models/NAME.")
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    captures: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Where photos lie, if they were moved; repeatable."),
    ] = None,
) -> None:
    """Tune a backbone so that its 2D features match the view-consistent ones.

    Run the same command again to resume an interrupted training. For several GPUs:
    torchrun --nproc-per-node N -m fit3d_cli finetune ...
    """
    resolved = run.resolve(
        {
            "finetune.epochs": ("--epochs", epochs),
            "finetune.lr": ("--lr", lr),
            "finetune.name": ("--name", name),
            "finetune.backbone.name": ("--backbone", backbone),
            "finetune.backbone.weights": ("--weights", weights),
        }
    )
    archives = scenes or sorted((run.workspace / "scenes").glob("*.f3d"))
    if not archives:
        raise SettingsError(
            "no scenes to learn from",
            where=run.workspace / "scenes",
            hint="run fit3d lift first, or name .f3d archives",
        )
    require(archives, hint="name .f3d archives that fit3d lift wrote", error=ArchiveError)
    require(captures or [], hint="name the folder of the photos with --captures")
    if run.dry_run:
        from fit3d_cli.commands._estimate import estimate_finetune

        estimate = estimate_finetune(run, resolved.settings.finetune, archives)
        run.show_settings(resolved, {"scenes": archives, "captures": captures or []}, estimate)
        return

    from fit3d_cli.commands import _show
    from fit3d_cli.finetuning.distributed import PeerError
    from fit3d_cli.finetuning.finetune import finetune as train
    from fit3d_cli.finetuning.joining import leads

    try:
        with dataclasses.replace(run, quiet=run.quiet or not leads()).progress() as on_event:
            result = train(
                archives,
                resolved.settings.finetune,
                workspace=run.workspace,
                device=run.device,
                seed=run.seed,
                captures=captures or [],
                on_event=on_event,
            )
    except PeerError as error:
        if leads() or not error.told:
            raise
        # One message is enough. torchrun ends everybody as soon as one has left: the process that
        # failed must have told first.
        time.sleep(_GRACE)
        raise typer.Exit(error.exit_code) from error
    if not leads():
        return
    if run.as_json:
        run.emit(
            {
                "path": result.path,
                "steps": result.steps,
                "loss_first": result.loss_first,
                "loss_last": result.loss_last,
                "heldout_before": result.heldout_before,
                "heldout_after": result.heldout_after,
                "seconds": result.seconds,
                "skipped": result.skipped,
            }
        )
    else:
        columns = (
            "model",
            "steps",
            "first loss",
            "last loss",
            "held-out L1, base",
            "tuned",
            "seconds",
        )
        figures = (
            result.steps, result.loss_first, result.loss_last, result.heldout_before,
            result.heldout_after, "kept" if result.skipped else result.seconds,
        )  # fmt: skip
        _show.table(run.out, columns, [(result.path, *figures)])
    run.hint(f"fit3d probe seg camvid --data DIR --tuned {result.path}{run.workspace_option()}")
