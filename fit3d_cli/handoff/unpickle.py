"""Tensors of a torch checkpoint, taken out by a process of its own.

The only file of fit3d that opens pickles. It is run as a script (``python -I unpickle.py SOURCE
TARGET``), imports nothing of fit3d, and uses ``torch.load(weights_only=True)``, which knows tensors
and plain containers and refuses everything else; ``argparse.Namespace``, which training scripts
store their options in, is allowed besides. What it finds goes into a safetensors file under
names that join the keys with ``/``; optimiser states and everything that is no tensor are left out.

torch's restricted unpickler has had holes (CVE-2025-32434, CVE-2026-24747), so it is not the only
wall. Before the file is opened this process gives up the network where the system lets it, the
right to start programs or to write any file but TARGET, and memory, time and disk beyond what a
file of that size needs; and a zip whose directory is not that of a checkpoint is not opened at all.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFUSED, DAMAGED, TOO_OLD = 3, 4, 5  # exit codes
FLOOR = (2, 10)  # of torch: below it the restricted unpickler can be made to corrupt memory
# Lightning's and torch's words for what is no model.
_SKIPPED = {"optimizer", "optimizer_states", "lr_scheduler", "lr_schedulers", "callbacks", "loops",
            "scaler", "ema_optimizer"}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,256}")
_DEPTH = 8
_MOST_ENTRIES = 200_000  # of all containers together; one that holds itself has no end
_SLACK = 512 << 20  # bytes beside the copies of the tensors: torch's own, and Python's
_SECONDS = 120
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h
_NO_NEW_PRIVILEGES = 38  # linux/prctl.h
# What a checkpoint has no reason to cause, as Python's audit events call it.
_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
              "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
              "os.chmod", "os.chown", "os.truncate", "os.putenv", "os.kill", "shutil.", "socket.",
              "ctypes.dlopen", "ftplib.", "http.", "smtplib.", "urllib.",
              "webbrowser.")  # fmt: skip


class Refused(Exception):
    """The file asks for what no checkpoint needs."""


def main(source: str, target: str) -> int:
    """Read ``source``, write ``target``; returns the exit code, the reason goes to stderr."""
    import torch
    from safetensors.torch import save_file

    if version(torch.__version__) < FLOOR:
        print(f"torch {torch.__version__}, {'.'.join(map(str, FLOOR))} is needed", file=sys.stderr)
        return TOO_OLD
    try:
        require_container(source)
        torch.serialization.add_safe_globals([argparse.Namespace])
        data = torch.load(source, map_location="cpu", weights_only=True)
        found = {
            name: tensor.detach().contiguous().clone()
            for name, tensor in tensors_of(data)
            if _NAME.fullmatch(name) and ".." not in name
        }
        if not found:
            raise Refused("it holds no tensor")
        save_file(found, target)
    except Refused as error:
        print(error, file=sys.stderr)
        return REFUSED
    except Exception as error:  # whatever a damaged file makes torch say
        if type(error).__name__ == "UnpicklingError":
            print(_reason(str(error)), file=sys.stderr)
            return REFUSED
        print((str(error).splitlines() or [type(error).__name__])[0][:200], file=sys.stderr)
        return DAMAGED
    return 0


def version(text: str) -> tuple[int, ...]:
    """Major and minor number of a version such as ``2.13.0+cpu``."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def require_container(source: str) -> None:
    """Look at the directory of a zip before torch does; other files are left to torch.

    torch stores its tensors without compression, so a compressed entry, or entries that are
    together larger than the file, are none of its making.

    Raises:
        Refused: Not a zip that ``torch.save`` writes.
        ValueError: A zip that is damaged.
    """
    with Path(source).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # how torch tells a zip
            return
    try:
        with zipfile.ZipFile(source) as opened:
            entries = opened.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError("its zip directory is damaged") from error
    names = [entry.filename for entry in entries]
    if len(entries) > _MOST_ENTRIES or len(set(names)) != len(names):
        raise Refused("its zip directory names an entry twice, or too many")
    if any(name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) for name in names):
        raise Refused("its zip directory has names that lead elsewhere")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > Path(source).stat().st_size
    ):
        raise Refused("its zip is compressed, which torch's is not")
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise Refused("it is a TorchScript program")


def tensors_of(data: object) -> Iterator[tuple[str, Any]]:
    """Names and tensors in nested dictionaries.

    Raises:
        Refused: More entries than any checkpoint has, or a sparse or quantised tensor.
    """
    import torch

    waiting: list[tuple[tuple[str, ...], object]] = [((), data)]
    count = 0
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            # Others have indices of their own, and weights of backbones are none of them.
            if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                raise Refused("it holds a tensor that is no plain one")
            yield "/".join(path), value
        elif isinstance(value, dict) and len(path) < _DEPTH:
            count += len(value)
            if count > _MOST_ENTRIES:
                raise Refused(f"it holds more than {_MOST_ENTRIES} entries, or itself")
            waiting += [
                ((*path, str(key)), item)
                for key, item in reversed(value.items())
                if isinstance(key, (str, int)) and (path or key not in _SKIPPED)
            ]


def shut_in(source: str, target: str) -> None:
    """Give up what reading a checkpoint does not need, for the rest of this process.

    Needs torch imported already, because importing opens libraries and starts threads.
    """
    size = Path(source).stat().st_size
    limits = {
        resource.RLIMIT_FSIZE: 2 * size + (1 << 20),
        resource.RLIMIT_CPU: _SECONDS + size // (50 << 20),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        # The tensors, their copies, and the bytes that are written.
        limits[resource.RLIMIT_AS] = used + 4 * size + _SLACK
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))
    allowed = str(Path(target).resolve())

    def forbid(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in "wax+" for c in mode or "") or (flags or 0) & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            # A number is what is open already. safetensors may write beside the target.
            if writes and not (isinstance(path, int) or str(path).startswith(allowed)):
                raise Refused("it writes a file")
        elif event.startswith(_FORBIDDEN):
            raise Refused(f"it asks for {event}")

    sys.addaudithook(forbid)


def leave_the_network() -> None:
    """Move to an empty network, where the system lets users do that; before any thread starts."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if libc.unshare(_NEW_NETWORK) != 0:
        libc.unshare(_NEW_USER | _NEW_NETWORK)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _reason(message: str) -> str:
    """What torch refused, in a few words."""
    match = re.search(r"GLOBAL (\S+)", message) or re.search(r"Unsupported (?:class|global) (\S+)",
                                                             message)  # fmt: skip
    if match:
        return f"it wants {match[1].rstrip('.,')[:80]}"
    match = re.search(r"[Uu]nsupported operand (\S+)", message)
    return f"it holds the instruction {match[1][:80]}" if match else "it is no plain state dict"


if __name__ == "__main__":
    leave_the_network()
    import torch

    torch.set_num_threads(1)
    # Both open their libraries now, not under the eyes of the hook.
    import safetensors.torch  # noqa: F401

    shut_in(sys.argv[1], sys.argv[2])
    sys.exit(main(sys.argv[1], sys.argv[2]))
