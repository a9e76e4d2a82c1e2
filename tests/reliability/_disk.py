"""A model of a disk: what it holds for certain, and what it may hold after a loss of power."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FREE = 6  # pending changes of names of which every subset is tried
Content = dict[str, bytes]  # by path; folders end with a slash


@dataclass
class Inode:
    """A file or a folder; ``synced`` is what the disk is known to hold of a file."""

    folder: bool
    data: bytes = b""
    synced: bytes = b""


@dataclass(frozen=True)
class Change:
    """A change of names that takes place as a whole or not at all: (folder, name) to inode."""

    names: tuple[tuple[int, str, int | None], ...]


@dataclass
class Disk:
    """What the system has been told, and what the disk holds for certain.

    Attributes:
        root: Inode 0 is this folder.
        inodes: All that ever were.
        names: Names that are on the disk for certain.
        pending: Changes of names since, in the order in which they were made.
    """

    root: Path
    inodes: list[Inode] = field(default_factory=lambda: [Inode(True)])
    names: dict[tuple[int, str], int] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> Disk:
        """A folder whose content has been on the disk for long."""
        disk, known = cls(root), {root: 0}
        for path in sorted(root.rglob("*")):
            data = b"" if path.is_dir() else path.read_bytes()
            disk.inodes.append(Inode(path.is_dir(), data, data))
            known[path] = len(disk.inodes) - 1
            disk.names[known[path.parent], path.name] = known[path]
        return disk

    def now(self) -> dict[tuple[int, str], int]:
        """Names as the running system shows them."""
        return applied(self.names, self.pending)

    def find(self, path: str) -> tuple[int, str] | None:
        """Folder and name of a path below the root; None for a path elsewhere."""
        absolute = Path(path)
        if not absolute.is_relative_to(self.root) or absolute == self.root:
            return None
        names, here = self.now(), 0
        *above, name = absolute.relative_to(self.root).parts
        for part in above:
            here = names[here, part]
        return here, name

    def inode(self, path: str) -> int | None:
        if Path(path) == self.root:
            return 0
        place = self.find(path)
        return None if place is None else self.now().get(place)

    def change(self, *names: tuple[tuple[int, str] | None, int | None]) -> None:
        self.pending.append(Change(tuple((*p, node) for p, node in names if p is not None)))

    def make(self, path: str, folder: bool = False) -> None:
        place = self.find(path)
        if place is not None and place not in self.now():
            self.inodes.append(Inode(folder))
            self.change((place, len(self.inodes) - 1))

    def sync(self, node: int) -> None:
        inode = self.inodes[node]
        inode.synced = inode.data
        if inode.folder:  # names in it, and nothing of the folder's own name
            done = [c for c in self.pending if {n[0] for n in c.names} <= {node}]
            self.names = applied(self.names, done)
            self.pending = [c for c in self.pending if c not in done]


def applied(
    names: dict[tuple[int, str], int], changes: Iterable[Change]
) -> dict[tuple[int, str], int]:
    after = dict(names)
    for change in changes:
        for folder, name, node in change.names:
            if node is None:
                after.pop((folder, name), None)
            else:
                after[folder, name] = node
    return after


_LINE = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+)(<.*>)?")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def replay(disk: Disk, log: str) -> Iterator[str]:
    """Tell the disk what strace saw, call by call; yields what has just been done."""
    opened: dict[int, tuple[int, bool]] = {}  # inode and whether writing appends
    offsets: dict[int, int] = {}
    for line in log.splitlines():
        match = _LINE.match(line)
        if match is None or match[3].startswith("-"):
            continue
        call, arguments, result = match[1], match[2], int(match[3])
        texts = [ast.literal_eval(f"b'{text}'") for text, _ in _TEXT.findall(arguments)]
        assert "..." not in arguments, "strace cut a buffer short"
        first = int(found[0]) if (found := re.match(r"\d+", arguments)) else -1
        paths = [text.decode("utf-8", "surrogateescape") for text in texts]
        if call == "openat":
            if "O_CREAT" in arguments:
                disk.make(paths[0])
            node = disk.inode(paths[0])
            opened.pop(result, None)
            if node is not None:
                opened[result], offsets[result] = (node, "O_APPEND" in arguments), 0
                if "O_TRUNC" in arguments:
                    disk.inodes[node].data = b""
        elif call in ("write", "pwrite64") and first in opened:
            node, append = opened[first]
            data = disk.inodes[node].data
            at = len(data) if append else offsets[first]
            if call == "pwrite64":
                at = int(arguments.rsplit(",", 1)[1])
            else:
                offsets[first] = at + result
            data += bytes(max(0, at - len(data)))
            disk.inodes[node].data = data[:at] + texts[0][:result] + data[at + result :]
        elif call in ("ftruncate", "fallocate") and first in opened:
            node = opened[first][0]
            size = int(arguments.rsplit(",", 1)[1])
            data = disk.inodes[node].data
            grown = data + bytes(max(0, size - len(data)))
            disk.inodes[node].data = grown[:size] if call == "ftruncate" else grown
        elif call in ("fsync", "fdatasync") and first in opened:
            disk.sync(opened[first][0])
        elif call == "renameat2" and "RENAME_EXCHANGE" in arguments:
            one, other = (disk.find(path) for path in paths)
            disk.change((one, disk.inode(paths[1])), (other, disk.inode(paths[0])))
        elif call.startswith("rename"):
            node = disk.inode(paths[0])
            disk.change((disk.find(paths[0]), None), (disk.find(paths[1]), node))
        elif call.startswith("link"):
            disk.change((disk.find(paths[1]), disk.inode(paths[0])))
        elif call in ("unlink", "rmdir"):
            disk.change((disk.find(paths[0]), None))
        elif call == "unlinkat":
            folder = opened[first][0] if first in opened else None
            if folder is not None:
                disk.change(((folder, paths[0]), None))
            elif "AT_FDCWD" in arguments:
                disk.change((disk.find(paths[0]), None))
        elif call.startswith("mkdir"):
            disk.make(paths[0], folder=True)
        elif call == "close":
            opened.pop(first, None)
            continue
        else:
            continue
        yield f"{call} {Path(paths[0]).name if paths else first}"


def damages(inode: Inode) -> dict[str, bytes]:
    """What a file may hold after the loss of power."""
    if inode.data == inode.synced:
        return {"": inode.data}
    kept = next(
        (i for i, (a, b) in enumerate(zip(inode.data, inode.synced, strict=False)) if a != b),
        min(len(inode.data), len(inode.synced)),
    )
    return {
        "written": inode.data,
        "lost": inode.synced,
        "zeroed": inode.data[:kept] + bytes(len(inode.data) - kept),
        "half": inode.data[: len(inode.data) // 2],
    }


def states(disk: Disk) -> Iterator[tuple[str, Content]]:
    """Every content of the disk that a loss of power may leave at this moment."""
    unsure = [i for i, node in enumerate(disk.inodes) if node.data != node.synced]
    fates: list[dict[int, str]] = [
        dict.fromkeys(unsure, fate) for fate in ("written", "lost", "zeroed", "half")
    ]
    fates += [
        {**dict.fromkeys(unsure, "written"), one: fate}
        for one in (unsure if len(unsure) > 1 else [])
        for fate in ("lost", "zeroed")
    ]
    for chosen in subsets(disk.pending):
        names = applied(disk.names, chosen)
        for fate in fates if unsure else [{}]:
            found: Content = {}
            pending = [(0, "")]
            while pending:
                folder, prefix = pending.pop()
                for (above, name), node in names.items():
                    if above != folder:
                        continue
                    inode = disk.inodes[node]
                    if inode.folder:
                        pending.append((node, f"{prefix}{name}/"))
                        found[f"{prefix}{name}/"] = b""
                    else:
                        found[prefix + name] = damages(inode)[fate.get(node, "")]
            fated = next(iter(set(fate.values())), "")
            yield f"{len(chosen)} of {len(disk.pending)} names, bytes {fated or 'safe'}", found


def subsets(changes: list[Change]) -> Iterator[list[Change]]:
    """Which pending changes have reached the disk: in another order than made, too."""
    if len(changes) <= FREE:
        for keep in itertools.product((False, True), repeat=len(changes)):
            yield [c for c, k in zip(changes, keep, strict=True) if k]
        return
    for end in range(len(changes) + 1):
        yield changes[:end]
    for one in range(len(changes)):
        yield [changes[one]]
        yield changes[:one] + changes[one + 1 :]
