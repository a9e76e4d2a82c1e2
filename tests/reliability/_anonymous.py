"""A world with telling names, everything that fit3d makes in it, and a search for the names."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import os
import platform
import re
import socket
import sys
import zipfile
import zlib
from pathlib import Path

from tests.reliability._strangers import model_directory

HOME, USER, PLACE, MACHINE = "zzsecrethome", "zzsecretuser", "zzsecretplace", "zzsecrethost"
SECRETS = (HOME, USER, PLACE, MACHINE)
# What remembers where things lie on this machine; it stays there.
LOCAL = re.compile(r"(captures|backbones)\.json|logs/.*|\.lock|.*\.lock")
PROFILE = """
[lift]
heldout = 0.2
isolate = "never"
[lift.backbone]
name = "{model}"
width = 48
[lift.geometry]
width = 48
iterations = 6
init_gaussians = 60
[lift.features]
dim = 4
[finetune]
epochs = 1
[probe]
steps = 2
[probe.backbone]
width = 48
[compare]
images = 2
[compare.backbone]
width = 48
[viz.backbone]
width = 48
[render]
width = 48
"""
FEW = (
    "lift ROOMS/room-0",
    "export fit3d-out/scenes/room-0.f3d --out OUT/a.ply",
    "export fit3d-out/scenes/room-0.f3d --out OUT/a.spz",
    "viz fit3d-out/scenes/room-0.f3d --export OUT/view.html",
    "export MODEL --to timm --out OUT/timm",
)
ALL = (
    *FEW,
    "lift ROOMS",
    "finetune",
    "render fit3d-out/scenes/room-0.f3d",
    "viz ROOMS/room-0",
    "probe corr fit3d-out/scenes/room-1.f3d",
    "compare",
    "export fit3d-out/models/tuned --to hub",
    "export fit3d-out/models/tuned --to safetensors --out OUT/tuned.safetensors",
    "export fit3d-out/models/tuned --to onnx --out OUT/tuned.onnx",
    "export fit3d-out/models/tuned --to transformers --out OUT/transformers",
)


def make_everything(folder: Path, lines: tuple[str, ...]) -> dict[str, list[str]]:
    """Run commands in a world of telling names; for a process of its own.

    Returns:
        ``failed`` commands, ``told``: what tells a name, ``local``: files that may, ``files``.
    """
    from fit3d_cli import app
    from fit3d_cli.rooms import write_room

    root = folder / HOME / USER / PLACE
    (root / "made").mkdir(parents=True)
    os.environ.update(HOME=str(root.parent), USER=USER, LOGNAME=USER, HOSTNAME=MACHINE)
    socket.gethostname = lambda: MACHINE
    platform.node = lambda: MACHINE
    os.chdir(root)
    sys.argv = [str(root / "fit3d")]
    for index in range(2 if "lift ROOMS" in lines else 1):
        write_room(root / f"rooms/room-{index}", index, views=4, width=48, height=32)
    model = model_directory(root / "model")
    profile = root / "small.toml"
    profile.write_text(PROFILE.format(model=model))
    failed = []
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for line in lines:
            words = [
                word.replace("ROOMS", str(root / "rooms"))
                .replace("OUT", str(root / "made"))
                .replace("MODEL", str(model))
                for word in line.split()
            ]
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                code = app.run([*words, "--profile", str(profile), "--quiet"])
            if code:
                failed.append(f"{line}: exit {code}")
    made = [
        path
        for place in ("fit3d-out", "made")
        for path in sorted((root / place).rglob("*"))
        if path.is_file()
    ]
    told, local = [], []
    for path in made:
        name = path.relative_to(root)
        short = name.relative_to(name.parts[0]).as_posix()
        found = secrets_in(path.read_bytes())
        if LOCAL.fullmatch(short):
            local += [str(name)] if found else []
        else:
            told += [f"{name} tells {', '.join(sorted(found))}"] if found else []
    return {"failed": failed, "told": told, "local": local, "files": [str(p) for p in made]}


def secrets_in(raw: bytes) -> set[str]:
    """Which of the names stand in a file, packed or not."""
    found = set()
    for data in (raw, *_unpacked(raw)):
        low = data.lower()
        found |= {
            name
            for name in SECRETS
            if any(name.encode(code) in low for code in ("utf-8", "utf-16-le", "utf-32-le"))
        }
    return found


def _unpacked(raw: bytes) -> list[bytes]:
    parts = []
    with contextlib.suppress(OSError, EOFError, zlib.error):
        parts.append(gzip.decompress(raw))
    if raw.startswith(b"\x28\xb5\x2f\xfd") or b"\x28\xb5\x2f\xfd" in raw[:256]:
        import zstandard

        for start in re.finditer(b"\x28\xb5\x2f\xfd", raw):
            with contextlib.suppress(zstandard.ZstdError):
                parts.append(zstandard.ZstdDecompressor().decompressobj().decompress(
                    raw[start.start():]))  # fmt: skip
    if raw.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            parts += [archive.read(name) for name in archive.namelist()]
    for text in re.findall(rb"[A-Za-z0-9+/]{64,}={0,2}", raw):
        with contextlib.suppress(ValueError):
            data = base64.b64decode(text, validate=True)
            parts.append(data)
            with contextlib.suppress(OSError, EOFError, zlib.error):
                parts.append(gzip.decompress(data))
    return parts
