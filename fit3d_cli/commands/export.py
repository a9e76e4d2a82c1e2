"""``fit3d export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fit3d_cli.commands._options import Run, require
from fit3d_cli.errors import ArchiveError, SettingsError


def export(
    run: Run,
    scene: Annotated[
        Path, typer.Argument(metavar="SCENE.f3d", show_default=False, help="A lifted scene.")
    ],
    to: Annotated[Literal["ply"], typer.Option(help="Format: a 3DGS .ply.")] = "ply",
    colour: Annotated[
        Literal["rgb", "pca"], typer.Option(help="The photos' colours, or the features' as PCA.")
    ] = "rgb",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write (SCENE.ply).", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a scene's Gaussians as a .ply that splat viewers open."""
    resolved = run.resolve()
    target = out or scene.with_suffix(f".{to}")
    require([scene], hint="name a .f3d archive that fit3d lift wrote", error=ArchiveError)
    if target.exists() and not force:
        raise SettingsError("exists already", where=target, hint="add --force, or name another")
    if run.dry_run:
        run.show_settings(resolved, {"scene": scene, "out": target, "colour": colour})
        return

    from fit3d_cli.archive import read_archive
    from fit3d_cli.commands import _show
    from fit3d_cli.export import write_ply

    loaded = read_archive(scene)
    rgb = None
    if colour == "pca":
        if not len(loaded.gaussians):
            raise ArchiveError("holds no Gaussians", where=scene, hint="lift the capture again")
        from fit3d_cli.viz.pca import fit_pca

        rgb = fit_pca(loaded.features, seed=run.seed)(loaded.features)
    write_ply(target, loaded.gaussians, rgb=rgb)
    facts = {"path": target, "gaussians": len(loaded.gaussians), "colour": colour}
    if run.as_json:
        run.emit(facts)
    else:
        _show.table(run.out, tuple(facts), [tuple(facts.values())])
