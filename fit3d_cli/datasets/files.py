"""Finding the pictures of a split: by folder, or by the list files that a dataset publishes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fit3d_cli.datasets.base import Sample
from fit3d_cli.errors import DatasetError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
# No published list has longer lines; anything else is no list.
MAX_LINE = 4096
_COMPLETE = "complete the download"
_REPLACE = "replace it by the list that the authors publish"


def pictures(directory: Path) -> dict[str, Path]:
    """Pictures directly in a directory by stem, sorted by name; empty if it is absent.

    Raises:
        DatasetError: Two pictures share their stem.
    """
    if not directory.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() not in PICTURES or path.name.startswith(".") or path.is_dir():
            continue
        other = found.setdefault(path.stem, path)
        if other is not path:
            raise DatasetError(
                f"two pictures have this name: {other.name} and {path.name}",
                where=directory / path.stem,
                hint="keep one of them",
            )
    return found


def paired(images: Path, labels: Path) -> tuple[Sample, ...]:
    """Samples of two directories whose files share their stems.

    Raises:
        DatasetError: A photo has no labels; pairing by order would be silent nonsense.
    """
    photos, annotations = pictures(images), pictures(labels)
    lacking = [stem for stem in photos if stem not in annotations]
    if lacking:
        raise DatasetError(
            f"{len(lacking)} of {len(photos)} photos have no label file (first: {lacking[0]})",
            where=labels,
            hint=_COMPLETE,
        )
    return tuple(Sample(stem, path, annotations[stem]) for stem, path in photos.items())


def top_of(root: Path, inner: Sequence[str], mark: str) -> Path:
    """The directory that holds ``mark``: ``root`` itself or a folder in it.

    Archives are unpacked with or without their outer folder.

    Args:
        root: What the user named.
        inner: Folders below it that are tried first, in this order.
        mark: A file or directory that every copy of the dataset has, e.g. ``images``.

    Returns:
        ``root`` if none has it.
    """
    for name in inner:
        if (root / name / mark).exists():
            return root / name
    return root


def split_folders(top: Path) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Training and validation samples of the folder layout of ADE20K.

    ``{images,annotations}/{training,validation}/NAME.{jpg,png}``; either may be empty.

    Raises:
        DatasetError: As ``paired``.
    """
    train, val = (
        paired(top / "images" / split, top / "annotations" / split)
        for split in ("training", "validation")
    )
    return train, val


def first_list(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first of these list files that exists."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def list_lines(path: Path, *, columns: int) -> Iterator[tuple[str, list[str]]]:
    """Lines of a list file, one at a time, however long the list.

    Args:
        path: Text, one picture per line, columns separated by spaces; empty lines are passed over.
        columns: A line has at least so many.

    Yields:
        ``FILE:LINE`` for messages, and the columns.

    Raises:
        DatasetError: It cannot be read, or a line is no line of a list.
    """
    try:
        with path.open("r", encoding="utf-8", errors="replace") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                where = f"{path}:{number}"
                if len(line) == MAX_LINE or not line.strip().replace("\t", " ").isprintable():
                    raise DatasetError("not a line of text", where=where, hint=_REPLACE)
                words = line.split()
                if not words:
                    continue
                if len(words) < columns:
                    raise DatasetError(
                        f"{len(words)} instead of at least {columns} columns", where=where,
                        hint=_REPLACE,
                    )  # fmt: skip
                yield where, words
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror or error})", where=path, hint="check its permissions"
        ) from error


class Inside:
    """Finds files that a list names, and never one outside of the dataset.

    Args:
        folders: Directories to look in, in this order; those that are absent are passed over. They
            may be links themselves: only what the list says is not trusted.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [(folder, folder.resolve()) for folder in folders if folder.is_dir()]
        self._safe: set[Path] = set()

    def find(self, name: str, *, where: str) -> Path:
        """The file called ``name``, a leading slash aside.

        Raises:
            DatasetError: There is none, or the name or a link leads out of the dataset.
        """
        relative = Path(name.lstrip("/"))
        if ".." in relative.parts:
            raise self._outside(name, where)
        for folder, real in self._folders:
            path = folder / relative
            if _is_file(path):
                self._check(path, real, name, where)
                return path
        raise DatasetError(f"the list names {name}, which is not there", where=where,
                           hint=_COMPLETE)  # fmt: skip

    def _check(self, path: Path, real: Path, name: str, where: str) -> None:
        # One look per directory: a list of 24 000 frames has a few hundred of them.
        if path.is_symlink():
            if not path.resolve().is_relative_to(real):
                raise self._outside(name, where)
        elif path.parent not in self._safe:
            if not path.parent.resolve().is_relative_to(real):
                raise self._outside(name, where)
            self._safe.add(path.parent)

    @staticmethod
    def _outside(name: str, where: str) -> DatasetError:
        return DatasetError(
            f"{name} leads out of the dataset",
            where=where,
            hint="keep all files below one folder and name it with --data",
        )


def listed_depth(path: Path, images: Sequence[Path], depths: Sequence[Path]) -> tuple[Sample, ...]:
    """Samples of a list of ``PHOTO DEPTH [FOCAL]`` lines; a depth of ``None`` is passed over.

    The third column, where there is one, is the focal length, which nothing here needs.

    Args:
        path: The list.
        images: Directories that photos are named from.
        depths: Directories that depth pictures are named from.

    Raises:
        DatasetError: The list is empty or damaged, or names what is not there.
    """
    photos, measured = Inside(images), Inside(depths)
    samples: list[Sample] = []
    names: set[str] = set()
    for number, (where, words) in enumerate(list_lines(path, columns=2), start=1):
        if words[1] == "None":
            continue
        image, depth = photos.find(words[0], where=where), measured.find(words[1], where=where)
        name = str(Path(words[0].lstrip("/")).with_suffix(""))
        name = f"{name}#{number}" if name in names else name
        names.add(name)
        samples.append(Sample(name, image, depth))
    if not samples:
        raise DatasetError("lists no picture with depth", where=path,
                           hint=_REPLACE)  # fmt: skip
    return tuple(samples)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one that no file can have
        return False
