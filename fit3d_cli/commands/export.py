"""``fit3d export``: what leaves fit3d for other programs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fit3d_cli.commands import _export_model as models
from fit3d_cli.commands._options import Run, require
from fit3d_cli.errors import ArchiveError, SettingsError

if TYPE_CHECKING:
    from fit3d_cli.config import Resolved

Kind = Literal["scene", "gaussians", "pictures", "model"]
To = Literal["ply", "spz", "splat", "npy", "safetensors", "timm", "hub", "onnx", "transformers"]
Colour = Literal["rgb", "pca", "kmeans", "query"]
SPLATS = ("ply", "spz", "splat")
FEATURES = ("npy", "safetensors")
# What each kind of source can become, the default first, and what it is called in messages.
FORMATS: Mapping[Kind, tuple[str, ...]] = {
    "scene": (*SPLATS, *FEATURES), "gaussians": SPLATS, "pictures": FEATURES,
    "model": models.MODEL_FORMATS,
}  # fmt: skip
NAMES: Mapping[Kind, str] = {
    "scene": "a scene", "gaussians": "a file of Gaussians", "pictures": "pictures",
    "model": "a model",
}  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """What was asked for besides source, format and target; None and False where not given.

    Attributes:
        colour: Of splats.
        clusters: k of ``colour="kmeans"``.
        query: A place ``X,Y,Z`` or ``VIEW:X,Y``.
        text: Words that are looked for instead.
        text_weights: Weights of the CLIP that reads them.
        decoded: Backbone channels instead of the stored ones.
        interpolate: Between a tuned model and its base.
        width: Of pictures.
        height: Of a model's pictures.
        backbone: Backbone name.
        weights: Its weights.
    """

    colour: Colour | None
    clusters: int | None
    query: str | None
    text: str | None
    text_weights: str | None
    decoded: bool
    interpolate: float | None
    width: int | None
    height: int | None
    backbone: str | None
    weights: str | None

    def given(self) -> dict[str, Any]:
        """Options that were given, as typed, with their values."""
        options = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items()}
        return {name: v for name, v in options.items() if v is not None and v is not False}


def export(
    run: Run,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", show_default=False,
            help="A lifted scene (.f3d), a picture or a folder of them, a tuned model or its name,"
            " a checkpoint, or Gaussians of another program (.ply, .spz, .splat).",
        ),
    ],
    to: Annotated[
        To | None,
        typer.Option(
            help="ply, spz, splat: Gaussians. npy, safetensors: features of a scene's Gaussians or"
            " of pictures. safetensors, timm, hub, onnx, transformers: a model.",
            show_default=False,
        ),
    ] = None,
    colour: Annotated[
        Colour | None,
        typer.Option(
            help="Of a scene's Gaussians: the photos' colours, the features' PCA or k-means"
            " classes, or how like the query they are.",
            show_default=False,
        ),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(metavar="K", help="Classes of --colour kmeans (6).")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z|VIEW:X,Y", show_default=False,
            help="What is looked for: a place in the world, or a pixel of a view.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS", show_default=False,
            help="Or words, in a scene lifted with CLIP.",
        ),
    ] = None,
    text_weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Safetensors weights of that CLIP with its text tower."),
    ] = None,
    decoded: Annotated[
        bool,
        typer.Option("--decoded", help="Features in the backbone's channels, not the stored ones."),
    ] = False,
    interpolate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="A", show_default=False,
            help="Write base + A (tuned - base) as a new model directory.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", show_default=False,
            help="Width at which the backbone sees pictures (448), or of an ONNX model's input.",
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Height of an ONNX model's input.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default=False,
            help="What to write; its suffix may say what --to would.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            help="Of pictures (dinov2-small) or a checkpoint; the base of --interpolate.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Its .safetensors weights.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists.")] = False,
) -> None:  # fmt: skip
    """Write scenes, features and models in the forms that other programs open."""
    ask = Ask(colour, clusters, query, text, text_weights, decoded, interpolate, width, height,
              backbone, weights)  # fmt: skip
    resolved = run.resolve(
        {
            "export.clusters": ("--clusters", clusters),
            "export.text_weights": ("--text-weights", text_weights),
            "export.backbone.name": ("--backbone", backbone),
            "export.backbone.weights": ("--weights", weights),
            "export.backbone.width": ("--width", width),
        }
    )
    kind, source = _kind(run, source, to)
    options = models.ModelOptions(
        interpolate, backbone or "", weights or "", width or 0, height or 0
    )
    to = to or _to_of(kind, out)
    made = to or (models.default_format(source, options) if kind == "model" else FORMATS[kind][0])
    if kind == "gaussians" and to is None:
        raise SettingsError("what it becomes is not said", where="--to",
                            hint=f"use one of {', '.join(SPLATS)}")  # fmt: skip
    _check(kind, made, ask)
    target = out or _default_target(kind, source, made, options)
    resumable = kind == "pictures" and made == "npy"
    inside = kind == "model" and made == "hub" and target == source
    if target.exists() and not force and not resumable and not inside:
        raise SettingsError("exists already", where=target, hint="add --force, or name another")
    if target.exists() and source.exists() and not inside and target.samefile(source):
        raise SettingsError("is what is exported", where=target, hint="name another with --out")
    if kind == "model":
        models.check_model(source, made, target, options)
    if run.dry_run:
        inputs = {"source": source, "to": made, "out": target, **ask.given()}
        run.show_settings(resolved, {name.lstrip("-"): v for name, v in inputs.items()})
        return
    facts = _export(run, resolved, kind, source, made, target, ask, options, force=force)
    from fit3d_cli.commands import _show

    if run.as_json:
        run.emit(facts)
    else:
        shown = {name: v for name, v in facts.items() if not isinstance(v, list | dict)}
        _show.table(run.out, tuple(shown), [tuple(shown.values())])
    if kind != "model":
        look = "info" if made in SPLATS else "viz"
        seen = target if made in SPLATS else source
        run.hint(f"fit3d {look} {shlex.quote(str(seen))}{run.workspace_option()}")


def _export(
    run: Run,
    resolved: Resolved,
    kind: Kind,
    source: Path,
    to: str,
    target: Path,
    ask: Ask,
    options: models.ModelOptions,
    *,
    force: bool,
) -> dict[str, Any]:
    if kind == "model":
        return models.export_model(run, source, to, target, options)
    if kind == "pictures":
        from fit3d_cli.commands._export_pictures import export_pictures

        return export_pictures(run, resolved, source, to, target, force=force)
    from fit3d_cli.commands import _export_scene as scenes

    if kind == "gaussians":
        return scenes.convert(source, target)
    if to in FEATURES:
        return scenes.export_features(source, to, target, decoded=ask.decoded)
    return scenes.export_splats(run, resolved, source, to, target, ask)


def _kind(run: Run, source: Path, to: str | None) -> tuple[Kind, Path]:
    """What ``source`` is, and where it is.

    Raises:
        ArchiveError: It is not there, or nothing that can be exported.
    """
    if source.suffix.lower() == ".f3d":
        require([source], hint="name a .f3d archive that fit3d lift wrote", error=ArchiveError)
        return "scene", source
    model = models.find_model(run, source)
    if model is not None:
        return "model", model
    require([source], hint="name a .f3d archive, pictures or a model", error=ArchiveError)
    if source.suffix.lower() in (".ply", ".spz", ".splat"):
        return "gaussians", source
    if source.is_dir():
        # Where a model was meant, a folder without one is an unfinished model.
        return (
            "model" if to in models.MODEL_FORMATS and to not in FEATURES else "pictures"
        ), source
    from fit3d_cli.capture.photos import SUFFIXES

    if source.suffix.lower() in SUFFIXES:
        return "pictures", source
    raise ArchiveError(
        "nothing that can be exported",
        where=source,
        hint="name a .f3d archive, pictures, a model, or a .ply, .spz or .splat",
    )


def _to_of(kind: Kind, out: Path | None) -> Any:
    """The format that the suffix of ``--out`` names, or None."""
    suffix = out.suffix.lower().lstrip(".") if out is not None else ""
    return suffix if suffix in FORMATS[kind] and kind != "model" else None


def _check(kind: Kind, to: str, ask: Ask) -> None:
    """Refuse options that say nothing about what is exported.

    Raises:
        SettingsError: One was given, or one that is needed was not.
    """
    if to not in FORMATS[kind]:
        raise SettingsError(
            f"{NAMES[kind]} cannot become {to}", where="--to",
            hint=f"use {', '.join(FORMATS[kind])}",
        )  # fmt: skip
    useful = {"pictures": {"--backbone", "--weights", "--width"}, "gaussians": set()}.get(kind)
    if kind == "model":  # which of these a model can use is for ``check_model`` to say
        useful = {"--interpolate", "--backbone", "--weights", "--width", "--height"}
    if kind == "scene":
        useful = {"--colour"} if to in SPLATS else {"--decoded"}
        useful |= {"--clusters"} if ask.colour == "kmeans" else set()
        useful |= {"--query", "--text", "--text-weights"} if ask.colour == "query" else set()
    for option in ask.given():
        if option in (useful or set()):
            continue
        if option == "--interpolate":
            raise SettingsError(f"{NAMES[kind]} has no weights", where=option,
                                hint="name a model directory")  # fmt: skip
        needs = {"--query": "query", "--text": "query", "--text-weights": "query",
                 "--clusters": "kmeans"}.get(option)  # fmt: skip
        if kind == "scene" and to in SPLATS and needs:
            raise SettingsError(f"is not used without --colour {needs}", where=option,
                                hint=f"add --colour {needs}, or leave it out")  # fmt: skip
        own = kind == "scene" and (needs or option in ("--colour", "--decoded"))
        what = f"{to} of {NAMES[kind]}" if own else NAMES[kind]
        raise SettingsError(f"means nothing for {what}", where=option, hint="leave it out")
    if ask.colour == "query" and (ask.query is None) == (ask.text is None):
        raise SettingsError(
            "needs what is looked for: one of --query and --text", where="--colour query",
            hint="add --query X,Y,Z, --query VIEW:X,Y or --text WORDS",
        )  # fmt: skip


def _default_target(kind: Kind, source: Path, to: str, options: models.ModelOptions) -> Path:
    if kind == "model":
        return models.default_target(source, to, options)
    if kind == "pictures":
        name = source.resolve().name if source.is_dir() else source.stem
        return source.parent / (f"{name}-tokens" if to == "npy" else f"{name}.safetensors")
    return source.parent / f"{source.stem}{'.features' if to in FEATURES else ''}.{to}"
