"""``fit3d viz SCENE.f3d``: the viewer, the view as one file, or a contact sheet."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d_cli.commands._options import Run

if TYPE_CHECKING:
    from fit3d_cli.config import Resolved
    from fit3d_cli.scene import Scene
    from fit3d_cli.viewer.session import Session

# Options of ``fit3d viz`` that only a scene has.
Layer = Annotated[
    str | None,
    typer.Option(metavar="rgb|pca|kmeans|depth|similarity", help="Scene: what the colours say."),
]
Find = Annotated[
    list[str] | None,
    typer.Option(metavar="X,Y,Z", help="Scene: show what is like this place; repeatable."),
]
Unlike = Annotated[
    list[str] | None,
    typer.Option(metavar="X,Y,Z", help="Scene: and unlike this place; repeatable."),
]
Text = Annotated[
    str | None, typer.Option(metavar="WORDS", help="Scene lifted with CLIP: show what this names.")
]
TextWeights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Safetensors weights of that CLIP with its text tower."),
]
HideBelow = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="A", help="Scene: hide Gaussians of a lower opacity."),
]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, metavar="N", help="Scene: the viewer's port (8080)."),
]
Open = Annotated[
    bool | None,
    typer.Option("--open", help="Scene: also open the browser.", show_default=False),
]


def view_scene(
    run: Run,
    resolved: Resolved,
    scene: Path,
    *,
    out: Path | None = None,
    captures: Path | None = None,
    sheet: bool = False,
    export: Path | None = None,
    find: Sequence[str] | None = None,
    unlike: Sequence[str] | None = None,
    text: str | None = None,
    open_browser: bool | None = None,
) -> None:
    """Show a scene; what is shown first is in the settings ``viz.view``.

    Args:
        run: The call.
        resolved: Its settings.
        scene: The archive.
        out: Of the contact sheet.
        captures: Where the photos lie now.
        sheet: Write a contact sheet instead.
        export: Write the view as this file instead.
        find: Places ``x,y,z`` whose like is looked for.
        unlike: Places whose like is not.
        text: Words that are looked for instead.
        open_browser: Also open the page.

    Raises:
        Fit3dError: A file or an option is at fault, or viser is missing.
    """
    if sheet:
        _sheet(run, resolved, scene, out or run.workspace / "viz" / scene.stem, captures)
        return

    from fit3d_cli.archive import read_archive
    from fit3d_cli.viewer.look import Look, parse_layer, parse_points
    from fit3d_cli.viewer.session import Session

    view = resolved.settings.viz.view
    look = Look(
        parse_layer(view.layer), resolved.settings.viz.clusters, view.hide_below,
        parse_points(find or (), "--find"), parse_points(unlike or (), "--unlike"),
        (text or "").strip(),
    )  # fmt: skip
    if look.queried:
        look.layer = "similarity"
    opened = read_archive(scene)
    make_text, no_text = _text(opened, view.text_weights, asked=bool(look.text))
    session = Session(opened, look, most=view.splats, seed=run.seed, make_text=make_text)
    if export is not None:
        _export(run, session, scene, export)
    else:
        _serve(run, resolved, session, scene, captures, no_text, open_browser=bool(open_browser))


def _text(scene: Scene, weights: str, *, asked: bool) -> tuple[Any, str]:
    """What makes the finder of words, and why there is none."""
    from fit3d_cli.errors import Fit3dError
    from fit3d_cli.viewer.text import find_text_tower

    try:
        return find_text_tower(scene, weights), ""
    except Fit3dError as error:
        if asked or weights:
            raise
        return None, f"{error.what} - {error.hint}"


def _serve(
    run: Run,
    resolved: Resolved,
    session: Session,
    scene: Path,
    captures: Path | None,
    no_text: str,
    *,
    open_browser: bool,
) -> None:
    import sys

    from fit3d_cli.device import resolve_device
    from fit3d_cli.viewer.photos import Photos
    from fit3d_cli.viewer.serve import serve
    from fit3d_cli.workspace import Workspace

    settings = resolved.settings.viz
    photos = Photos(
        session.scene, Workspace(run.workspace), captures=captures, tuned=settings.tuned,
        device=resolve_device(run.device),
    )  # fmt: skip
    drawn, count = len(session.drawn), len(session.scene.gaussians)

    def ready(url: str) -> None:
        if run.as_json:
            run.emit({"subject": scene, "url": url, "gaussians": count, "drawn": drawn})
        else:
            run.out.write(f"{url}\n")
            if drawn < count:
                run.out.write(f"note: {drawn} of {count} Gaussians are drawn; queries use all\n")
        run.out.flush()
        if not run.quiet:
            print("Ctrl-C ends it", file=sys.stderr)

    extra = f" --captures {shlex.quote(str(captures))}" if captures is not None else ""
    extra += f" --text-weights {shlex.quote(settings.view.text_weights)}" * bool(
        settings.view.text_weights
    )
    serve(
        session, photos, archive=scene, port=settings.view.port, no_text=no_text,
        extra=extra + run.workspace_option(), open_browser=open_browser, on_ready=ready,
    )  # fmt: skip
    # Ctrl-C is how a viewer ends: nothing is left that would have to be interrupted again.
    signal.setitimer(signal.ITIMER_REAL, 0)


def _export(run: Run, session: Session, scene: Path, target: Path) -> None:
    from fit3d_cli.commands import _show
    from fit3d_cli.viewer.page import write_page

    with run.progress() as on_event:
        written = write_page(session, target, on_event=on_event)
    if run.as_json:
        run.emit({"subject": scene, "files": [target], "bytes": written.size,
                  "gaussians": written.gaussians, "drawn": written.drawn})  # fmt: skip
        return
    rows = [(target, f"{written.size / 1e6:.1f} MB", f"{written.drawn} of {written.gaussians}")]
    _show.table(run.out, ("file", "size", "Gaussians"), rows)
    run.hint(f"fit3d viz {shlex.quote(str(scene))}{run.workspace_option()}")


def _sheet(run: Run, resolved: Resolved, scene: Path, target: Path, captures: Path | None) -> None:
    from fit3d_cli.commands import _show
    from fit3d_cli.comparing.scenes import viz_scene

    settings = resolved.settings.viz
    with run.progress() as on_event:
        file = viz_scene(
            scene, target, workspace=run.workspace,
            method="kmeans" if settings.method == "kmeans" else "pca",
            clusters=settings.clusters, captures=captures, seed=run.seed, on_event=on_event,
        )  # fmt: skip
    if run.as_json:
        run.emit({"subject": scene, "files": [file]})
    else:
        _show.table(run.out, ("picture",), [(file,)])
        run.hint(f"fit3d viz {shlex.quote(str(scene))}{run.workspace_option()}")
