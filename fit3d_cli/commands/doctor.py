"""``fit3d doctor``."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from fit3d_cli.commands._options import Run
from fit3d_cli.errors import Fit3dError

MIN_FREE = 2 << 30  # a scene archive and the token cache of a few hundred views
MARKS = {"ok": "✔", "note": "!", "broken": "✘"}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: ``note`` means that fit3d works, with less.
        found: What is there.
        remedy: The exact thing to do; empty when nothing is to be done.
    """

    name: str
    state: Literal["ok", "note", "broken"]
    found: str
    remedy: str = ""


def doctor(run: Run) -> None:
    """Check that this machine can run fit3d; say what to do where it cannot."""
    resolved = run.resolve()
    if run.dry_run:
        run.show_settings(resolved, {})
        return
    checks = list(examine(run.workspace, run.device))
    ready = all(check.state != "broken" for check in checks)
    if run.as_json:
        run.emit({"ready": ready, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            remedy = f" - {check.remedy}" if check.remedy else ""
            run.out.write(f"{MARKS[check.state]} {check.name:<11} {check.found}{remedy}\n")
        run.out.write("ready\n" if ready else "not ready: see the lines marked ✘\n")
    if not ready:
        raise typer.Exit(3)
    run.hint("fit3d lift DIR, where DIR holds your posed photos")


def examine(workspace: Path, device: str) -> Iterator[Check]:
    """All checks, in the order in which one failure explains the next."""
    yield _python()
    for name, look, remedy in (
        ("torch", _torch, "pip install torch"),
        ("kernels", _kernels, "reinstall fit3d where a C++17 compiler is at hand"),
        ("timm", _timm, "pip install timm"),
        ("gsplat", _gsplat, "pip install gsplat"),
        ("ffmpeg", _ffmpeg, "pip install imageio-ffmpeg"),
    ):
        yield _guarded(name, look, remedy)
    yield _cuda(device)
    yield _pycolmap()
    yield _disk(workspace)
    yield _writable(workspace)


def _guarded(name: str, look: Callable[[], str], remedy: str) -> Check:
    """A check that fails by raising: a broken library can raise anything."""
    try:
        return Check(name, "ok", look())
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return Check(name, "broken", f"{type(error).__name__}: {reason}", remedy)


def _python() -> Check:
    # An older Python cannot even import this file.
    return Check("python", "ok", f"{platform.python_version()} on {platform.machine()}")


def _torch() -> str:
    import torch

    from fit3d_cli.device import thread_count

    return f"{torch.__version__}, {thread_count()} CPU threads"


def _kernels() -> str:
    return f"built, {importlib.import_module('fit3d_cli._kernels').isa()} instructions"


def _timm() -> str:
    from fit3d_cli.backbones.torchvision_shim import allow_broken_torchvision, import_timm

    found = str(import_timm().__version__)
    worked_around = allow_broken_torchvision()
    return f"{found} (beside a torchvision without operators)" if worked_around else found


def _gsplat() -> str:
    return str(importlib.import_module("gsplat").__version__)


def _ffmpeg() -> str:
    return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_version())


def _cuda(device: str) -> Check:
    from fit3d_cli.device import resolve_device

    try:
        if resolve_device(device).type == "cpu":
            return Check("cuda", "note", "not used: everything runs on the CPU")
        import torch

        from fit3d_cli.splat.backends import splat_device

        name = torch.cuda.get_device_name()
        if splat_device(device).type == "cuda":
            return Check("cuda", "ok", f"{name}, with CUDA kernels")
        found = f"{name}, for backbones; Gaussians are splatted on the CPU"
        return Check("cuda", "note", found, "fit3d doctor --device cuda says why")
    except (Fit3dError, ImportError, RuntimeError) as error:
        return Check("cuda", "broken", str(error))


def _pycolmap() -> Check:
    if importlib.util.find_spec("pycolmap"):
        return Check("pycolmap", "ok", "present")
    found = "absent: captures without points or depth start at random"
    return Check("pycolmap", "note", found, "pip install 'fit3d[sfm]'")


def _existing(path: Path) -> Path:
    """The nearest directory that is there already."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _disk(workspace: Path) -> Check:
    free = shutil.disk_usage(_existing(workspace)).free
    found = f"{free / (1 << 30):.1f} GiB free for {workspace}"
    if free >= MIN_FREE:
        return Check("disk", "ok", found)
    return Check("disk", "broken", found, "free some space or choose another --workspace")


def _writable(workspace: Path) -> Check:
    from fit3d_cli.storage import require_writable

    try:
        # An existing ancestor stands for a workspace that is not there yet: nothing is made.
        require_writable(_existing(workspace))
    except Fit3dError as error:
        return Check("workspace", "broken", error.what, error.hint)
    return Check("workspace", "ok", f"{workspace} is writable")
