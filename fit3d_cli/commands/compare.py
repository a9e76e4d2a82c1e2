"""``fit3d compare``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fit3d_cli.commands._options import Backbone, Captures, Run, Weights, require
from fit3d_cli.errors import ArchiveError, ImageError, SettingsError

COLUMNS = ("task", "dataset", "metric", "n", "model", "value", "95 % CI", "difference", "95 % CI",
           "verdict")  # fmt: skip


def compare(
    run: Run,
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[A B | IMAGE | DIR | SCENE.f3d]", show_default=False,
            help="Two models, or what to look at (held-out photos of the workspace's scenes).",
        ),
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Tuned model (newest of the workspace).")
    ] = None,
    images: Annotated[int | None, typer.Option(metavar="N", help="Pictures on the page.")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    captures: Captures = None,
) -> None:  # fmt: skip
    """Put a tuned backbone beside its base: scores with confidence, feature pictures, one page.

    Writes WORKSPACE/compare/index.html, which needs no other file, and a PNG per picture.
    """
    chosen = subjects or []
    _check(chosen, tuned)
    require_model(run, tuned)
    resolved = run.resolve(
        {
            "compare.tuned": ("--tuned", None if tuned is None else str(tuned)),
            "compare.images": ("--images", images),
            "compare.backbone.name": ("--backbone", backbone),
            "compare.backbone.weights": ("--weights", weights),
        }
    )
    require([captures] if captures else [], hint="name the folder of the photos with --captures")
    if run.dry_run:
        run.show_settings(resolved, {"subjects": chosen, "captures": captures})
        return

    from fit3d_cli.commands import _show
    from fit3d_cli.comparing.compare import compare as put_beside

    differences = resolved.differences()
    with run.progress() as on_event:
        result = put_beside(
            chosen,
            resolved.settings.compare,
            workspace=run.workspace,
            device=run.device,
            seed=run.seed,
            captures=captures,
            differences=differences,
            command=_command(chosen, differences, run.seed),
            on_event=on_event,
        )
    drifts = {picture.name: picture.drift for picture in result.pictures}
    if run.as_json:
        run.emit(
            {
                "page": result.page,
                "report": result.page,
                "base": result.base,
                "tuned": result.tuned,
                "summary": [dict(row) for row in result.summary],
                "pictures": [
                    {
                        "name": name,
                        "path": path,
                        "cosine": drift.cosine if drift else None,
                        "norm_ratio": drift.norm_ratio if drift else None,
                    }
                    for (name, drift), path in zip(drifts.items(), result.files, strict=True)
                ],
                "remarks": result.remarks,
            }
        )
        return
    if result.summary:
        _show.table(run.out, COLUMNS, [_row(row) for row in result.summary])
        run.out.write("\n")
    rows = [
        (name, drift.cosine if drift else None, drift.norm_ratio if drift else None, path)
        for (name, drift), path in zip(drifts.items(), result.files, strict=True)
    ]
    _show.table(run.out, ("picture", "cosine to base", "length ratio", "file"), rows)
    for remark in result.remarks:
        run.out.write(f"note: {remark}\n")
    run.out.write(f"page: {result.page}\n")
    model = run.workspace / "models" / result.tuned
    if model.is_dir():
        run.hint(f"fit3d export {shlex.quote(str(model))} --to onnx  (or transformers)")


def _check(chosen: list[str], tuned: Path | None) -> None:
    if len(chosen) > 2:
        raise SettingsError(
            f"{len(chosen)} things to compare", where="fit3d compare",
            hint="name two models, or one picture, folder or scene",
        )  # fmt: skip
    if len(chosen) == 2 and tuned is not None:
        raise SettingsError(
            "two models are named already", where=f"--tuned {tuned}", hint="leave --tuned out"
        )
    if len(chosen) == 1:
        path = Path(chosen[0])
        error = ArchiveError if path.suffix.lower() == ".f3d" else ImageError
        require([path], hint="name a picture, a folder, a .f3d scene, or two models", error=error)


def require_model(run: Run, tuned: Path | None) -> None:
    """Refuse a ``--tuned`` that is neither a directory nor a model of the workspace.

    Raises:
        SettingsError: It is neither.
    """
    if tuned is not None and not (run.workspace / "models" / tuned).is_dir():
        require([tuned], hint="name a model directory", error=SettingsError)


def _command(chosen: list[str], differences: Mapping[str, Any], seed: int) -> str:
    words = ["fit3d", "compare", *chosen]
    for key, value in differences.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, *(["--seed", str(seed)] if seed else [])])


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    difference = None if row["difference"] is None else f"{row['difference']:+.3g}"
    metric = f"{row['metric']} {row['arrow']}".strip()
    best = f"{row['model']} (best)" if row["best"] else row["model"]
    own = _ends(row["value_low"], row["value_high"], ".3g")
    against = _ends(row["low"], row["high"], "+.3g")
    figures = (row["value"], own, difference, against, row["verdict"])
    return (row["task"], row["dataset"], metric, f"{row['count']} {row['over']}", best, *figures)


def _ends(low: float | None, high: float | None, form: str) -> str | None:
    return None if low is None or high is None else f"{low:{form}} to {high:{form}}"
