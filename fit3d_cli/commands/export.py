"""``fit3d export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fit3d_cli.commands._options import Run, require
from fit3d_cli.errors import ArchiveError, SettingsError

Format = Literal["ply", "safetensors"]


def export(
    run: Run,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SCENE.f3d|MODEL", show_default=False,
            help="A lifted scene, or a tuned model: its directory, or its name in the workspace.",
        ),
    ],
    to: Annotated[
        Format | None,
        typer.Option(
            help="ply: a scene's Gaussians as a 3DGS .ply. safetensors: a model's weights under"
            " timm's names.",
            show_default=False,
        ),
    ] = None,
    colour: Annotated[
        Literal["rgb", "pca"] | None,
        typer.Option(
            help="Of a .ply: the photos' colours (rgb), or the features' as PCA.",
            show_default=False,
        ),
    ] = None,
    interpolate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="A", show_default=False,
            help="Write base + A (tuned - base) as a new model directory.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default=False,
            help="What to write (SCENE.ply, MODEL.safetensors or MODEL-A).",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            help="The base of --interpolate, if the workspace does not remember it.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Its .safetensors weights.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists.")] = False,
) -> None:  # fmt: skip
    """Write a scene as a .ply that splat viewers open, or a model's weights for timm."""
    resolved = run.resolve()
    inside = run.workspace / "models" / source
    if not source.exists() and (inside / "config.json").is_file():
        source = inside
    require([source], hint="name a .f3d archive or a model directory", error=ArchiveError)
    model = source.is_dir() and source.suffix != ".f3d"
    _check(model, interpolate, {"--to": to, "--colour": colour, "--backbone": backbone,
                                "--weights": weights})  # fmt: skip
    if interpolate is not None:
        made = f"{source.resolve().name}-{interpolate:g}"
    else:
        made = f"{source.resolve().name}.safetensors" if model else f"{source.stem}.ply"
    target = out or source.parent / made
    if target.exists() and not force:
        raise SettingsError("exists already", where=target, hint="add --force, or name another")
    if target.exists() and target.samefile(source):
        raise SettingsError("is what is exported", where=target, hint="name another with --out")
    if interpolate is not None and target.exists() and not (target / "fit3d.json").is_file():
        raise SettingsError("is no model directory", where=target, hint="name another with --out")
    if run.dry_run:
        inputs = {"source": source, "out": target, "interpolate": interpolate, "colour": colour}
        run.show_settings(resolved, {k: v for k, v in inputs.items() if v is not None})
        return
    if interpolate is not None:
        facts = _interpolated(run, source, target, interpolate, backbone or "", weights or "")
    else:
        facts = _weights(source, target) if model else _ply(run, source, target, colour or "rgb")
    from fit3d_cli.commands import _show

    if run.as_json:
        run.emit(facts)
    else:
        _show.table(run.out, tuple(facts), [tuple(facts.values())])


def _check(model: bool, interpolate: float | None, options: Mapping[str, str | None]) -> None:
    """Refuse options that say nothing about what is exported.

    Raises:
        SettingsError: One was given.
    """
    wrong: list[str] = []
    if not model:
        what, wrong = "a scene", ["--backbone", "--weights"]
        if interpolate is not None:
            raise SettingsError(
                "a scene has no weights", where="--interpolate", hint="name a model directory"
            )
    elif interpolate is None:
        what, wrong = "a model without --interpolate", ["--colour", "--backbone", "--weights"]
    else:
        what, wrong = "an interpolated model", ["--colour", "--to"]
    for option in wrong:
        if options[option] is not None:
            raise SettingsError(f"means nothing for {what}", where=option, hint="leave it out")
    expected = "safetensors" if model else "ply"
    if options["--to"] not in (None, expected):
        raise SettingsError(
            f"{what} cannot become {options['--to']}", where="--to", hint=f"use {expected}"
        )


def _ply(run: Run, scene: Path, target: Path, colour: str) -> dict[str, Any]:
    from fit3d_cli.archive import read_archive
    from fit3d_cli.export import write_ply

    loaded = read_archive(scene)
    rgb = None
    if colour == "pca":
        if not len(loaded.gaussians):
            raise ArchiveError("holds no Gaussians", where=scene, hint="lift the capture again")
        from fit3d_cli.viz.pca import fit_pca

        rgb = fit_pca(loaded.features, seed=run.seed)(loaded.features)
    write_ply(target, loaded.gaussians, rgb=rgb)
    return {"path": target, "gaussians": len(loaded.gaussians), "colour": colour}


def _weights(directory: Path, target: Path) -> dict[str, Any]:
    from fit3d_cli.backbones.export import write_weights
    from fit3d_cli.backbones.origin import load_tuned

    model = load_tuned(directory)
    write_weights(target, model)
    return {"path": target, "timm_id": model.timm_id, "tensors": model.matched,
            "weights_sha256": model.weights_sha256}  # fmt: skip


def _interpolated(
    run: Run, directory: Path, target: Path, alpha: float, backbone: str, weights: str
) -> dict[str, Any]:
    from fit3d_cli.backbones.origin import load_base, write_interpolated
    from fit3d_cli.device import resolve_device
    from fit3d_cli.storage import require_writable
    from fit3d_cli.workspace import Workspace

    require_writable(target)
    device = resolve_device(run.device)
    base = load_base(
        directory, Workspace(run.workspace), name=backbone, weights=weights, device=device
    )
    made = write_interpolated(target, base, directory, alpha, device=device)
    return {"path": target, "base": base.name, "alpha": alpha,
            "weights_sha256": made.weights_sha256}  # fmt: skip
