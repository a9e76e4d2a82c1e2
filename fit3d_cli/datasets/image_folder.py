"""Pictures sorted into one folder per class, as many classification sets are shared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fit3d_cli.datasets.files import pictures
from fit3d_cli.errors import DatasetError

LAYOUT = "{train,val}/CLASS/NAME.{jpg,png,webp} or CLASS/NAME.{jpg,png,webp}"
_SCORED = ("val", "test", "validation")
# Of a folder without a split, this share of every class is scored.
VAL_SHARE = 0.2


@dataclass(frozen=True)
class ClassPicture:
    """One picture of a known class.

    Attributes:
        name: ``CLASS/STEM``, unique in the split.
        image_path: The photo.
        label: Index of the class.
    """

    name: str
    image_path: Path
    label: int


@dataclass(frozen=True)
class ClassDataset:
    """Classified pictures.

    Attributes:
        name: What reports call it.
        classes: Names of the folders, sorted.
        train: Pictures that are compared with.
        val: Pictures that are scored.
        notes: What a reader must know of the split.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[ClassPicture, ...]
    val: tuple[ClassPicture, ...]
    notes: tuple[str, ...] = ()


def read_image_folder(root: Path, name: str) -> ClassDataset:
    """List an image folder.

    Without ``train`` and ``val`` a fifth of every class is scored: the pictures whose names have
    the smallest digests, so the split depends on nothing but the names.

    Args:
        root: Holds ``train`` and ``val`` (or ``test``, ``validation``), or the classes themselves.
        name: What reports call it.

    Raises:
        DatasetError: The folder is absent, laid out otherwise, or a class lacks pictures.
    """
    if not root.is_dir():
        raise _not_found(root)
    notes: tuple[str, ...] = ()
    scored = [root / split for split in _SCORED if _has_folders(root / split)]
    learnt = _has_folders(root / "train")
    if learnt and scored:
        train, val = _by_class(root / "train"), _by_class(scored[0])
        unknown = sorted(set(val) - set(train))
        if unknown:
            raise DatasetError(f"{len(unknown)} classes have no training pictures (first:"
                               f" {unknown[0]})", where=scored[0],
                               hint="give both splits the same folders")  # fmt: skip
        classes = tuple(train)
    elif learnt or scored:
        raise _not_found(root)
    else:
        whole = _by_class(root)
        halves = {label: _split(label, paths) for label, paths in whole.items()}
        train = {label: half[0] for label, half in halves.items()}
        val = {label: half[1] for label, half in halves.items()}
        classes = tuple(whole)
        notes = ("no split is published: a fifth of every class is scored, chosen by name",)
    if len(classes) < 2:
        raise DatasetError("a single class", where=root, hint=f"lay the pictures out as {LAYOUT}")
    return ClassDataset(name, classes, _listed(classes, train), _listed(classes, val), notes)


def _has_folders(directory: Path) -> bool:
    """Whether it is a split; a class may be called ``train`` too, and holds pictures."""
    return directory.is_dir() and any(entry.is_dir() for entry in directory.iterdir())


def _by_class(directory: Path) -> dict[str, list[Path]]:
    """Pictures by class, both sorted by name."""
    found = {}
    for folder in sorted(directory.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        found[folder.name] = list(pictures(folder).values())
        if not found[folder.name]:
            raise DatasetError("no picture in this class", where=folder,
                               hint=f"lay the pictures out as {LAYOUT}")  # fmt: skip
    if not found:
        raise _not_found(directory)
    return found


def _split(label: str, paths: list[Path]) -> tuple[list[Path], list[Path]]:
    if len(paths) < 2:
        raise DatasetError("a single picture cannot be split", where=paths[0].parent,
                           hint="add pictures, or make train and val folders")  # fmt: skip
    order = sorted(paths, key=lambda p: hashlib.sha256(f"{label}/{p.stem}".encode()).digest())
    count = max(1, round(VAL_SHARE * len(paths)))
    return sorted(order[count:]), sorted(order[:count])


def _listed(classes: tuple[str, ...], files: dict[str, list[Path]]) -> tuple[ClassPicture, ...]:
    return tuple(
        ClassPicture(f"{label}/{path.stem}", path, number)
        for number, label in enumerate(classes)
        for path in files.get(label, [])
    )


def _not_found(where: Path) -> DatasetError:
    return DatasetError(f"not found, or not laid out as {LAYOUT}", where=where,
                        hint="name a folder of classified pictures, with --data DIR")  # fmt: skip
