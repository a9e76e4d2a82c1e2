"""``fit3d info``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fit3d_cli.commands._options import Run, require
from fit3d_cli.errors import ArchiveError, SettingsError


def info(
    run: Run,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", show_default=False,
            help="A .f3d archive, or Gaussians (.ply, .spz, .splat).",
        ),
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Check every tensor's digest.")] = False,
) -> None:  # fmt: skip
    """Say what an archive or a file of Gaussians holds; --verify proves an archive undamaged."""
    resolved = run.resolve()
    require([file], hint="name a .f3d archive that fit3d lift wrote", error=ArchiveError)
    splats = file.suffix.lower() in (".ply", ".spz", ".splat")
    if splats and verify:
        raise SettingsError(
            "only an archive has digests to check", where="--verify", hint="leave it out"
        )
    if run.dry_run:
        run.show_settings(resolved, {"file": file, "verify": verify})
        return

    from fit3d_cli.commands import _show

    if splats:
        from fit3d_cli.formats import describe_gaussians

        facts = describe_gaussians(file)
        if run.as_json:
            run.emit(facts)
        else:
            _show.table(run.out, ("what", "value"), list(lines(facts)))
        run.hint(f"fit3d lift SCAN --gaussians {shlex.quote(str(file))}{run.workspace_option()}")
        return

    from fit3d_cli.archive import describe, verify_archive

    facts = dict(describe(file))
    if verify:
        verify_archive(file)
        facts["verified"] = True
    if run.as_json:
        run.emit(facts)
    else:
        tensors = facts.pop("tensors", {})
        _show.table(run.out, ("what", "value"), list(lines(facts)))
        run.out.write("\n")
        rows = [(name, t["dtype"], t["shape"], t["bytes"]) for name, t in tensors.items()]
        _show.table(run.out, ("tensor", "type", "shape", "bytes"), rows)
    run.hint(f"fit3d viz {shlex.quote(str(file))}{run.workspace_option()}")


def lines(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as dotted names and values; lists are joined."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from lines(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            for index, item in enumerate(value):
                yield from lines({str(index): item}, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", value
