"""``fit3d viz``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d_cli.commands._options import Backbone, Captures, Run, Weights, require
from fit3d_cli.commands._view import (
    Find,
    HideBelow,
    Layer,
    Open,
    Port,
    Text,
    TextWeights,
    Unlike,
)
from fit3d_cli.commands.compare import require_model
from fit3d_cli.errors import ArchiveError, ImageError, SettingsError

if TYPE_CHECKING:
    from fit3d_cli.config import Resolved


def viz(
    run: Run,
    subject: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE|DIR|VIDEO|SCENE.f3d", show_default=False,
            help="A picture, a folder of pictures, a capture, a video, or a lifted scene.",
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(metavar="pca|kmeans|similarity", help="How features become colours."),
    ] = None,
    clusters: Annotated[int | None, typer.Option(metavar="K", help="Groups of k-means.")] = None,
    foreground: Annotated[
        bool | None,
        typer.Option("--foreground", help="Cut the background away.", show_default=False),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(metavar="[IMAGE:]X,Y", help="Show what is like this pixel."),
    ] = None,
    upscale: Annotated[
        str | None,
        typer.Option(metavar="smooth|photo|cells", help="How token grids become pictures."),
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tuned model to show beside the base.")
    ] = None,
    html: Annotated[
        bool | None,
        typer.Option(
            "--html", help="Pictures: also a page to click in, one file.", show_default=False
        ),
    ] = None,
    sheet: Annotated[
        bool | None,
        typer.Option(
            "--sheet", help="Scene: a contact sheet instead of the viewer.", show_default=False
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Scene: write the view as one file and return."),
    ] = None,
    layer: Layer = None,
    find: Find = None,
    unlike: Unlike = None,
    text: Text = None,
    text_weights: TextWeights = None,
    hide_below: HideBelow = None,
    port: Port = None,
    open_browser: Open = None,
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
    """Show what a backbone sees: its features as colours beside the photo, or a scene to click in.

    Pictures and videos get PCA or k-means colours that all of them share, or the likeness to one
    point; a scene opens in the viewer.
    """
    if point is not None and method is None:
        method = "similarity"
    resolved = run.resolve(
        {
            "viz.method": ("--method", method),
            "viz.clusters": ("--clusters", clusters),
            "viz.foreground": ("--foreground", foreground),
            "viz.point": ("--point", point),
            "viz.upscale": ("--upscale", upscale),
            "viz.view.layer": ("--layer", layer),
            "viz.view.hide_below": ("--hide-below", hide_below),
            "viz.view.text_weights": ("--text-weights", text_weights),
            "viz.view.port": ("--port", port),
            "viz.tuned": ("--tuned", None if tuned is None else str(tuned)),
            "viz.backbone.name": ("--backbone", backbone),
            "viz.backbone.weights": ("--weights", weights),
        }
    )
    is_scene = subject.suffix.lower() == ".f3d"
    if is_scene:
        photographic: dict[str, Any] = {
            "--backbone": backbone, "--weights": weights, "--html": html, "--point": point,
            "--foreground": foreground, "--upscale": upscale,
        }  # fmt: skip
        _refuse(photographic, "of no use to a scene")
        if out is not None and export is None:  # the suffix says what is wanted
            out, export = (None, out) if out.suffix.lower() == ".html" else (out, None)
        sheet = bool(sheet) or out is not None
        live: dict[str, Any] = {"--port": port, "--open": open_browser}
        if sheet:
            shown = {"--layer": layer, "--find": find, "--unlike": unlike, "--text": text}
            _refuse({"--export": export, **shown, **live}, "of no use to a contact sheet")
        elif export is not None:
            _refuse(live, "of no use to an exported view")
    else:
        scenic: dict[str, Any] = {
            "--captures": captures, "--sheet": sheet, "--export": export, "--layer": layer,
            "--find": find, "--unlike": unlike, "--text": text, "--text-weights": text_weights,
            "--hide-below": hide_below, "--port": port, "--open": open_browser,
        }  # fmt: skip
        _refuse(scenic, "only for a scene")
    require(
        [subject], hint="name a picture, a folder of pictures, a video or a .f3d scene",
        error=ArchiveError if is_scene else ImageError,
    )  # fmt: skip
    require_model(run, tuned)
    require([captures] if captures else [], hint="name the folder of the photos with --captures")
    target = out or run.workspace / "viz" / (subject.stem or subject.resolve().name or "pictures")
    if run.dry_run:
        run.show_settings(resolved, {"subject": subject, "out": target, "captures": captures})
    elif is_scene:
        from fit3d_cli.commands._view import view_scene

        view_scene(
            run, resolved, subject,
            out=out, captures=captures, sheet=bool(sheet), export=export, find=find,
            unlike=unlike, text=text, open_browser=open_browser,
        )  # fmt: skip
    else:
        _show_pictures(run, resolved, subject, target, page=bool(html))


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Refuse options that the subject has no use for."""
    for option, value in given.items():
        if value is not None and value != []:
            raise SettingsError(why, where=option, hint=f"leave {option} out")


def _show_pictures(
    run: Run, resolved: Resolved, subject: Path, target: Path, *, page: bool
) -> None:
    from fit3d_cli.commands import _show
    from fit3d_cli.comparing.models import load_base, load_pair
    from fit3d_cli.device import resolve_device
    from fit3d_cli.showing.sampling import Viewer
    from fit3d_cli.showing.subject import find_subject, look_of, show_subject
    from fit3d_cli.workspace import Workspace

    settings = resolved.settings.viz
    look_of(settings, run.seed)
    device, home = str(resolve_device(run.device)), Workspace(run.workspace)
    found = find_subject(subject)
    if settings.tuned:
        pair = load_pair(home, settings.backbone, tuned=settings.tuned, device=device)
        models = [("base", pair.base), ("tuned", pair.tuned)]
        remarks = pair.remarks
    else:
        base = load_base(home, settings.backbone, {}, device=device)
        models, remarks = [(base.name, base)], ()
    viewer = Viewer(models, settings.backbone.width, settings.backbone.batch)
    with run.progress() as on_event:
        shown = show_subject(
            found, viewer, settings, out=target, page=page, seed=run.seed, on_event=on_event
        )
    facts = {"contact sheet": shown.sheet, "page": shown.page, "video": shown.video}
    if run.as_json:
        run.emit(
            {
                "subject": subject,
                "files": shown.files,
                "sheet": shown.sheet,
                "page": shown.page,
                "video": shown.video,
                "fitted_on": shown.fitted,
                "remarks": remarks,
            }
        )
    else:
        _show.files(run.out, "picture", shown.files)
        for name, file in facts.items():
            if file is not None:
                run.out.write(f"{name}: {file}\n")
        for remark in remarks:
            run.out.write(f"note: {remark}\n")
    named = shlex.quote(str(subject))
    place = run.workspace_option()
    if shown.video is not None:
        run.hint(f"fit3d lift {named}{place}")
    elif not page and shown.page is None:
        run.hint(f"fit3d viz {named} --html{place}  (a page to click in)")
    elif not settings.tuned:
        run.hint(f"fit3d compare {named}{place}")
