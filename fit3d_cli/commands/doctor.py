"""``fit3d doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from fit3d_cli.commands._options import Run
from fit3d_cli.errors import Fit3dError
from fit3d_cli.settings import LiftBackboneSettings

MIN_FREE = 2 << 30  # a scene archive and the token cache of a few hundred views
MIN_MEMORY = 4 << 30
# Extra, its packages as pip names them, and what does not work without them.
EXTRAS = (
    ("view", ("viser",), "fit3d viz SCENE.f3d has no viewer, only --sheet"),
    ("sfm", ("pycolmap",), "photos and videos without poses cannot be lifted"),
    ("language", ("open-clip-torch",), "no queries in words"),
    ("onnx", ("onnx", "onnxruntime", "onnxscript"), "no export --to onnx"),
    ("hf", ("transformers",), "no export --to transformers"),
)
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
            run.out.write(f"{MARKS[check.state]} {check.name:<12} {check.found}{remedy}\n")
        run.out.write("ready\n" if ready else "not ready: see the lines marked ✘\n")
    if not ready:
        raise typer.Exit(3)
    run.hint("fit3d lift DIR, where DIR holds your photos; or fit3d demo")


def examine(workspace: Path, device: str) -> Iterator[Check]:
    """All checks, in the order in which one failure explains the next."""
    yield _python()
    for name, look, remedy in (
        ("torch", _torch, "pip install torch"),
        ("kernels", _kernels, "reinstall fit3d where a C++17 compiler is at hand"),
        ("timm", _timm, "pip install timm"),
        ("torchvision", _torchvision, "pip install 'torchvision'"),
        ("gsplat", _gsplat, "pip install gsplat"),
        ("ffmpeg", _ffmpeg, "pip install imageio-ffmpeg"),
    ):
        yield _guarded(name, look, remedy)
    yield _cuda(device)
    yield from _toolchain()
    for extra, packages, what in EXTRAS:
        yield _extra(extra, packages, what)
    yield _memory()
    yield _disk(workspace)
    yield _writable(workspace)
    yield _weights()


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
    from fit3d_cli.backbones.torchvision_shim import import_timm

    return str(import_timm().__version__)


def _torchvision() -> str:
    from fit3d_cli.backbones.torchvision_shim import allow_broken_torchvision

    worked_around = allow_broken_torchvision()
    found = importlib.metadata.version("torchvision")
    if worked_around:
        return f"{found}, built for another torch: its operators are absent, fit3d does without"
    return found


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


def _toolchain() -> Iterator[Check]:
    """Driver, torch's CUDA and nvcc: told only where there is a sign of an NVIDIA GPU."""
    try:
        import torch
    except ImportError:
        return  # told already
    driver, nvcc, built = _driver(), _nvcc(), str(torch.version.cuda or "")
    if driver and not built:
        yield Check(
            "cuda torch", "note", f"driver {driver}, but torch is a CPU build",
            "pip install --force-reinstall torch (a CUDA build, see pytorch.org/get-started)",
        )  # fmt: skip
    if driver and built and not torch.cuda.is_available():
        yield Check(
            "driver", "note", f"{driver}, and torch for CUDA {built} sees no device",
            "look at nvidia-smi and CUDA_VISIBLE_DEVICES, or renew the driver",
        )  # fmt: skip
    if driver and not nvcc:
        yield Check(
            "nvcc", "note", "absent: our CUDA kernels can only be built with it",
            "install the CUDA toolkit, then pip install --force-reinstall --no-deps fit3d",
        )  # fmt: skip
    if nvcc:
        same = not built or nvcc.split(".")[0] == built.split(".")[0]
        found = nvcc if same else f"{nvcc}, torch is built for CUDA {built}"
        remedy = "" if same else f"install the CUDA {built} toolkit if the kernels do not load"
        yield Check("nvcc", "ok" if same else "note", found, remedy)


def _driver() -> str:
    """Version of the NVIDIA driver, or an empty string."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"Module\s+([\d.]+)", text) or re.search(r"(\d+\.\d[\d.]*)", text)
    return found[1] if found else "present"


def _nvcc() -> str:
    """Version of the CUDA compiler, or an empty string."""
    program = shutil.which("nvcc")
    if program is None:
        return ""
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"release ([\d.]+)", told)
    return found[1] if found else "present"


def _extra(extra: str, packages: tuple[str, ...], what: str) -> Check:
    """Whether the packages of an extra are installed; they are not imported."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if not missing:
        return Check(extra, "ok", ", ".join(found))
    absent = f"no {', '.join(missing)}: {what}"
    return Check(extra, "note", absent, f"pip install 'fit3d[{extra}]'")


def _memory() -> Check:
    try:
        from fit3d_cli.device import available_memory

        free = available_memory()
    except (ImportError, OSError):  # torch is broken, which is told already
        free = None
    if free is None:
        return Check("memory", "note", "unknown on this system")
    found = f"{free / (1 << 30):.1f} GiB free"
    if free >= MIN_MEMORY:
        return Check("memory", "ok", found)
    return Check(
        "memory", "note", found, "close other programs, or use --profile quick and fewer views"
    )


def _weights() -> Check:
    """Whether the default backbone must be downloaded, and where downloads go."""
    try:
        from fit3d_cli.backbones.facts import model_facts

        facts = model_facts(LiftBackboneSettings().name)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return Check("weights", "note", reason, "name a file with --weights")
    size = f"{facts.bytes / 1e6:.0f} MB, {facts.licence}"
    if facts.where != "download":
        return Check("weights", "ok", f"{facts.name} ({size}) is in {facts.folder}")
    return Check(
        "weights", "note",
        f"{facts.name} is not in {facts.folder}: about {size}, downloaded at first use",
        f"offline: copy {facts.repository} there, use --weights FILE, or --backbone room-tiny",
    )  # fmt: skip


def existing(path: Path) -> Path:
    """The nearest directory that is there already."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _disk(workspace: Path) -> Check:
    free = shutil.disk_usage(existing(workspace)).free
    found = f"{free / (1 << 30):.1f} GiB free for {workspace}"
    if free >= MIN_FREE:
        return Check("disk", "ok", found)
    return Check("disk", "broken", found, "free some space or choose another --workspace")


def _writable(workspace: Path) -> Check:
    from fit3d_cli.storage import require_writable

    try:
        # An existing ancestor stands for a workspace that is not there yet: nothing is made.
        require_writable(existing(workspace))
    except Fit3dError as error:
        return Check("workspace", "broken", error.what, error.hint)
    return Check("workspace", "ok", f"{workspace} is writable")
