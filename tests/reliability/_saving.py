"""Saves to be disturbed, and a process that has imported everything and forks a child for each.

Run as a program it reads one JSON job per line from stdin and answers with one JSON line each.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import resource
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OLD, NEW = 1, 2
REFUSED = 3  # exit code of a typed error
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PR_SET_PTRACER = 0x59616D61


def save_archive(folder: Path, version: int) -> None:
    from fit3d_cli.archive import write_archive

    write_archive(folder / "room.f3d", _scene(400 * version, version))


def save_checkpoint(folder: Path, version: int) -> None:
    """Two of them, then a third, for which the first goes."""
    import torch

    from fit3d_cli.finetuning.checkpoints import State, save

    for step in (1, 2) if version == OLD else (3,):
        draw = torch.Generator().manual_seed(step)
        parameters = {n: torch.nn.Parameter(torch.randn(24, 32, generator=draw)) for n in "abc"}
        optimizer = torch.optim.AdamW(parameters.values())
        for parameter in parameters.values():
            parameter.grad = torch.randn(24, 32, generator=draw)
        optimizer.step()
        averages = {"e": {n: p.detach() for n, p in parameters.items()}}
        save(folder / "plan", State(parameters, optimizer, averages, [[0.5, 0.25]] * step))


def save_folder(folder: Path, version: int) -> None:
    from fit3d_cli import storage

    with storage.temporary_folder(folder / "hall") as made:
        (made / "images").mkdir()
        for number in range(version + 1):
            (made / f"images/{number}.jpg").write_bytes(bytes([version]) * 5000)
        storage.write_json(made / "source.json", {"version": version})


def save_json(folder: Path, version: int) -> None:
    from fit3d_cli import storage

    storage.write_json(folder / "deep/below/table.json", {str(i): version for i in range(50)})


def save_memory(folder: Path, version: int) -> None:
    from fit3d_cli.workspace import Workspace

    Workspace(folder / "ws").remember_capture("room", Path(f"/somewhere/{version}"))


def save_sibling(folder: Path, version: int) -> None:
    from fit3d_cli import storage

    with storage.temporary_sibling(folder / "film.gif") as path:
        path.write_bytes(bytes([version]) * 9000)


SAVES: dict[str, Callable[[Path, int], None]] = {
    "archive": save_archive,
    "checkpoint": save_checkpoint,
    "folder": save_folder,
    "json": save_json,
    "memory": save_memory,
    "sibling": save_sibling,
}


def _scene(count: int, seed: int) -> Any:
    import torch

    from fit3d_cli.decoders import Decoder
    from fit3d_cli.geometry.cameras import Cameras
    from fit3d_cli.geometry.gaussians import Gaussians
    from fit3d_cli.scene import FeatureSource, Scene

    draw = torch.Generator().manual_seed(seed)
    quats = torch.randn(count, 4, generator=draw)
    Ks = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]], dtype=torch.float64)
    return Scene(
        name="room",
        gaussians=Gaussians(
            torch.randn(count, 3, generator=draw), quats / quats.norm(dim=1, keepdim=True),
            torch.rand(count, 3, generator=draw) + 0.1, torch.rand(count, generator=draw),
            torch.randn(count, 1, 3, generator=draw),
        ),
        features=torch.randn(count, 8, generator=draw),
        decoder=Decoder(torch.randn(6, 8, 3, 3, generator=draw), torch.randn(6, generator=draw)),
        source=FeatureSource("tiny", "0" * 64, 6, 8, 64, 48),
        cameras=Cameras(torch.eye(4).double()[None], Ks[None], torch.tensor([[64, 48]])),
        names=("a.png",),
        heldout=torch.tensor([False]),
        capture_digest="1" * 64,
        metric=True,
        metrics={"psnr": 20.0},
        provenance={"plan": str(seed)},
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """What has a final name, with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(map(is_litter, path.relative_to(folder).parts))
    }


def litter(folder: Path) -> list[Path]:
    """Temporary files, folders and locks, the outermost of each."""
    found = [path for path in folder.rglob("*") if is_litter(path.name)]
    return [p for p in found if not any(map(is_litter, p.relative_to(folder).parts[:-1]))]


def is_litter(name: str) -> bool:
    return ".f3dtmp" in name or ".f3dold" in name or name.endswith(".lock")


def attempt(job: dict[str, Any]) -> int:
    """One save under the faults of the job; its exit code."""
    from fit3d_cli.errors import StorageError

    if job.get("limit") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    for name in job.get("without", ()):  # what some filesystems lack, or a planted defect
        _take_away(name)
    if job.get("short") is not None:
        _write_in_parts(random.Random(job["short"]))
    try:
        SAVES[job["save"]](Path(job["folder"]), job["version"])
    except StorageError as error:
        text = str(error)
        return REFUSED if error.exit_code == REFUSED and error.hint and "\n" not in text else 98
    return 0


def _take_away(name: str) -> None:
    from fit3d_cli.archive import writing as archives
    from fit3d_cli.storage import folders, writing

    if name == "temporary names":
        archives.write_bytes = lambda path, pieces, **_: path.write_bytes(b"".join(pieces))
    elif name == "clearing up":
        writing._remove = lambda temporary: None
    elif name == "exchange":
        folders._exchange = lambda *_: False
    elif name == "fallocate":
        del os.posix_fallocate
    elif name == "fsync of files":
        fsync = os.fsync
        os.fsync = lambda fd: fsync(fd) if is_folder(fd) else None
    elif name == "fsync of folders":
        fsync = os.fsync
        os.fsync = lambda fd: None if is_folder(fd) else fsync(fd)
    else:
        raise ValueError(name)


def is_folder(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _write_in_parts(draw: random.Random) -> None:
    write = os.write
    os.write = lambda fd, data: write(fd, memoryview(data)[: draw.randint(1, max(1, len(data)))])


def on_small_disks(job: dict[str, Any]) -> int:
    """Save on disks of every size from the old content's up; notes what was left of each."""
    folder, told = Path(job["folder"]), []
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    for pages in job["pages"]:
        options = f"size={pages * 4096}".encode()
        if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options):
            raise OSError(ctypes.get_errno(), "mount")
        try:
            code = -1
            if not attempt({**job, "version": OLD}):
                code = attempt({**job, "version": NEW})
            after = {name: hash_of(data) for name, data in contents(folder).items()}
            left = len(litter(folder))
            if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 32, b"size=8m"):  # MS_REMOUNT
                raise OSError(ctypes.get_errno(), "remount")
            again = attempt({**job, "version": NEW})
            whole = {name: hash_of(data) for name, data in contents(folder).items()}
            told.append([pages, code, after, left, again, whole])
        finally:
            libc.umount2(bytes(folder), 2)
    Path(job["told"]).write_text(json.dumps(told))
    return 0


def hash_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def child(job: dict[str, Any], gate: int) -> int:
    sys.stdout = sys.stderr
    try:
        if job.get("gate"):
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
            os.read(gate, 1)
        if job["do"] == "disks":
            return on_small_disks(job)
        if job["do"] == "call":
            return int(importlib.import_module(job["module"]).run(job))
        return attempt(job)
    except BaseException:
        traceback.print_exc()
        return 99


def main() -> None:
    import gc
    import tempfile

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:  # whatever is imported late
        for name, save in SAVES.items():
            for version in (OLD, NEW):
                save(Path(scratch) / name, version)
    gc.freeze()
    gc.disable()  # closes nothing between two calls of a save
    print(json.dumps("ready"), flush=True)
    pending: dict[int, int] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if job["do"] == "go":
            os.write(pending[job["pid"]], b"g")
            print("true", flush=True)
        elif job["do"] == "wait":
            code = os.waitstatus_to_exitcode(os.waitpid(job["pid"], 0)[1])
            os.close(pending.pop(job["pid"]))
            print(json.dumps(code), flush=True)
        else:
            ours, theirs = os.pipe()
            pid = os.fork()
            if not pid:
                os._exit(child(job, ours))
            os.close(ours)
            pending[pid] = theirs
            print(json.dumps(pid), flush=True)


if __name__ == "__main__":
    main()
