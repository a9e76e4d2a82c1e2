"""What lies at a path: captures that a reader understands, and sources that become one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fit3d_cli.capture.base import READERS
from fit3d_cli.capture.read import matching_readers, not_understood, unreadable
from fit3d_cli.capture.sources.base import SOURCES
from fit3d_cli.errors import CaptureError

# Folders of which a capture is made up. Beside one of them, a folder of pictures is a part of a
# damaged capture, not a scan of its own.
_PARTS = {
    "color", "colour", "confidence", "depth", "images", "intrinsic", "intrinsics", "keyframes",
    "label", "labels", "mask", "masks", "pose", "poses", "results", "rgb", "rgbd", "sparse",
}  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """One thing to lift.

    Attributes:
        path: A directory, or the file of a source.
        name: Of the scene: the directory's, or the file's without its suffix.
        readers: Names of the readers that understand it; more than one is an error later.
        source: Name of the source that makes it a capture, or an empty string.
    """

    path: Path
    name: str
    readers: tuple[str, ...] = ()
    source: str = ""

    def describe(self) -> str:
        """What it is and what understands it, one line."""
        if self.source:
            source = SOURCES.get(self.source)
            what = source.describe(self.path) if source.describe else source.layout
            return f"{what} (source {self.source})"
        return ", or ".join(f"{READERS.get(n).layout} (reader {n})" for n in self.readers)


def find_scans(path: Path, reader: str = "") -> list[Scan]:
    """The scans at ``path``: itself, else those of what it holds that are one.

    Readers are asked first. A folder with captures in it is a folder of scans; another one is a
    source if it looks like one, and a folder of scans if that is what its visible files and
    folders are.

    Args:
        path: A capture, a source, or a folder of both.
        reader: Name of the only reader or source to ask; empty asks all.

    Returns:
        Scans, sorted; at least one.

    Raises:
        CaptureError: There is none; the message lists what is known.
        UnknownNameError: No such reader or source.
    """
    if reader not in SOURCES:
        matching_readers(path, reader)  # refuses an unknown name
    own = _scan(path, reader)
    if own is not None and own.readers:
        return [own]
    if not path.is_dir():
        if own is None:
            raise not_understood(path, reader)
        return [own]
    children = _visible(path)
    inside = [scan for scan in (_scan(child, reader) for child in children) if scan is not None]
    if own is not None and not any(scan.readers for scan in inside):
        return [own]
    if any(child.name.lower() in _PARTS for child in children):
        inside = [scan for scan in inside if scan.readers]
    if not inside:
        raise not_understood(path, reader)
    return inside


def _scan(path: Path, reader: str) -> Scan | None:
    resolved = path.resolve()  # "." has no name
    readers = () if reader in SOURCES else tuple(matching_readers(path, reader))
    if readers:
        return Scan(path, resolved.name, readers)
    sources = [name for name, source in SOURCES.items() if source.sniff(path)]
    if reader:
        sources = [name for name in sources if name == reader]
    if not sources:
        return None
    return Scan(path, resolved.stem if path.is_file() else resolved.name, source=sources[0])


def _visible(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise unreadable(path, error) from error


def check_names(scans: list[Scan]) -> None:
    """Refuse two scans of one name: they would overwrite each other.

    Raises:
        CaptureError: There are two.
    """
    names = [scan.name for scan in scans]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise CaptureError(
                f"two captures are called {name!r}",
                where=scans[index].path,
                hint="rename one of them, or use two workspaces",
            )
