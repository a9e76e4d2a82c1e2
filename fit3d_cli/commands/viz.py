"""``fit3d viz``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Backbone, Captures, Run, Weights, require
from fit3d_cli.commands.compare import require_model
from fit3d_cli.errors import ArchiveError, ImageError, SettingsError


def viz(
    run: Run,
    subject: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE|DIR|SCENE.f3d", show_default=False,
            help="A picture, a folder of pictures, a capture, or a lifted scene.",
        ),
    ],
    method: Annotated[
        str | None, typer.Option(metavar="pca|kmeans", help="How features become colours.")
    ] = None,
    clusters: Annotated[int | None, typer.Option(metavar="K", help="Groups of k-means.")] = None,
    tuned: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tuned model to show beside the base.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="Where to (WORKSPACE/viz/SUBJECT).", show_default=False
        ),
    ] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    captures: Captures = None,
) -> None:  # fmt: skip
    """Show what a backbone sees: PCA or k-means of its features beside the photo."""
    resolved = run.resolve(
        {
            "viz.method": ("--method", method),
            "viz.clusters": ("--clusters", clusters),
            "viz.tuned": ("--tuned", None if tuned is None else str(tuned)),
            "viz.backbone.name": ("--backbone", backbone),
            "viz.backbone.weights": ("--weights", weights),
        }
    )
    is_scene = subject.suffix.lower() == ".f3d"
    error = ArchiveError if is_scene else ImageError
    _check(is_scene, {"--tuned": tuned, "--backbone": backbone, "--weights": weights}, captures)
    require([subject], hint="name a picture, a folder of pictures or a .f3d scene", error=error)
    require_model(run, tuned)
    require([captures] if captures else [], hint="name the folder of the photos with --captures")
    target = out or run.workspace / "viz" / (subject.stem or "pictures")
    if run.dry_run:
        run.show_settings(resolved, {"subject": subject, "out": target, "captures": captures})
        return

    from fit3d_cli.commands import _show

    with run.progress() as on_event:
        if is_scene:
            from fit3d_cli.comparing.scenes import viz_scene

            shown = viz_scene(
                subject,
                target,
                workspace=run.workspace,
                method=resolved.settings.viz.method,
                clusters=resolved.settings.viz.clusters,
                captures=captures,
                seed=run.seed,
                on_event=on_event,
            )
            files = [shown]
        else:
            from fit3d_cli.comparing.look import viz_subject

            files = viz_subject(
                subject,
                resolved.settings.viz,
                workspace=run.workspace,
                out=target,
                device=run.device,
                seed=run.seed,
                on_event=on_event,
            )
    if run.as_json:
        run.emit({"subject": subject, "files": files})
    else:
        _show.table(run.out, ("picture",), [(file,) for file in files])
    if tuned is None and not is_scene:
        run.hint(f"fit3d compare {subject}{run.workspace_option()}")


def _check(is_scene: bool, models: Mapping[str, object], captures: Path | None) -> None:
    """Refuse options that the subject has no use for."""
    given = [option for option, value in models.items() if value is not None]
    if is_scene and given:
        raise SettingsError(
            "a scene holds its own features", where=given[0], hint=f"leave {given[0]} out"
        )
    if not is_scene and captures is not None:
        raise SettingsError(
            "only a scene has a capture", where="--captures", hint="leave --captures out"
        )
