"""``fit3d render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fit3d_cli.commands._options import Run, require
from fit3d_cli.errors import ArchiveError


def render(
    run: Run,
    scene: Annotated[
        Path, typer.Argument(metavar="SCENE.f3d", show_default=False, help="A lifted scene.")
    ],
    what: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Any of rgb,depth,alpha,features,pca."),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="held-out, all, orbit, or view names with commas."),
    ] = None,
    width: Annotated[int | None, typer.Option(metavar="PIXELS", help="Picture width.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to (WORKSPACE/renders/SCENE).", show_default=False),
    ] = None,
) -> None:
    """Render colour, depth, alpha and feature pictures, arrays or a video of a scene."""
    resolved = run.resolve(
        {
            "render.what": ("--what", what),
            "render.views": ("--views", views),
            "render.width": ("--width", width),
        }
    )
    require([scene], hint="name a .f3d archive that fit3d lift wrote", error=ArchiveError)
    target = out or run.workspace / "renders" / scene.stem
    if run.dry_run:
        run.show_settings(resolved, {"scene": scene, "out": target})
        return

    from fit3d_cli.archive import read_archive
    from fit3d_cli.commands import _show
    from fit3d_cli.rendering import render_scene
    from fit3d_cli.splat.backends import splat_device

    loaded = read_archive(scene).to(splat_device(run.device))
    with run.progress() as on_event:
        files = render_scene(
            loaded, **resolved.settings.render.model_dump(), out=target, on_event=on_event
        )
    if run.as_json:
        run.emit({"scene": scene, "out": target, "files": files})
    else:
        _show.table(run.out, ("picture",), [(file,) for file in files])
    run.hint(f"fit3d finetune {scene}{run.workspace_option()}")
