"""Pairs of PF-PASCAL (Ham et al., "Proposal Flow", 2016) with key points on both pictures.

Layout: ``JPEGImages/*.jpg`` of the public ``PF-dataset-PASCAL`` and one of
- ``test_pairs_pf_different_views.csv`` and ``test_pairs_pf_same_views.csv`` (either or both), the
  299 + 299 pairs that 3DCorrEnhance evaluates;
- ``test_pairs.csv``, the test split of SCNet that matching papers use.

Columns: ``source_image,target_image,class,XA,YA,XB,YB``, class 1..20 in VOC's order, coordinates
as ``;``-separated pixels. The tables hold all that a test needs; the ``.mat`` files of
``Annotations/`` are not opened. Many rows of the view tables list unequal numbers of points for
the two pictures; points are matched in order up to the shorter list, as in the published
evaluation, and ``uneven`` counts those rows.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from fit3d_cli.errors import DatasetError

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
LAYOUT = (
    "JPEGImages/*.jpg with test_pairs_pf_different_views.csv, test_pairs_pf_same_views.csv or"
    " test_pairs.csv"
)
SOURCE = (
    "https://www.di.ens.fr/willow/research/proposalflow (PF-dataset-PASCAL; pictures of PASCAL VOC:"
    " Flickr terms, research use) and the csv files of github.com/qq456cvb/3DCorrEnhance (data/)"
)
_TABLES = {
    "different": "test_pairs_pf_different_views.csv",
    "same": "test_pairs_pf_same_views.csv",
}
_PLAIN = "test_pairs.csv"
_COLUMNS = ("source_image", "target_image", "class", "XA", "YA", "XB", "YB")
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class KeypointPair:
    """Two pictures of one category.

    Attributes:
        source: Picture whose points are given.
        target: Picture in which they are to be found.
        category: Index into ``CATEGORIES``.
        view: ``different``, ``same``, or empty where the table does not say.
        source_points: ``[K, 2]`` float64 x, y in pixels of the stored source.
        target_points: ``[K, 2]`` float64 the same points in the target.
        uneven: Whether the table lists more points for one picture than for the other.
    """

    source: Path
    target: Path
    category: int
    view: str
    source_points: Tensor
    target_points: Tensor
    uneven: bool = False


def read_pfpascal(root: Path) -> tuple[KeypointPair, ...]:
    """All test pairs, in the order of the tables.

    Args:
        root: The directory ``PF-dataset-PASCAL``, or one that holds it.

    Raises:
        DatasetError: Absent, laid out otherwise, or a damaged table.
    """
    inside = root / "PF-dataset-PASCAL"
    root = inside if inside.is_dir() else root
    tables = {view: root / name for view, name in _TABLES.items() if (root / name).is_file()}
    if not tables and (root / _PLAIN).is_file():
        tables = {"": root / _PLAIN}
    if not tables or not (root / "JPEGImages").is_dir():
        raise DatasetError(
            f"not found, or not laid out as {LAYOUT}",
            where=root,
            hint=f"get it from {SOURCE} and name it with --data DIR",
        )
    pairs = [pair for view, path in tables.items() for pair in _read_table(root, path, view)]
    if not pairs:
        raise DatasetError("no pairs", where=next(iter(tables.values())), hint="download it again")
    lacking = sorted({p for pair in pairs for p in (pair.source, pair.target) if not p.is_file()})
    if lacking:
        raise DatasetError(
            f"{len(lacking)} pictures of the tables are missing (first: {lacking[0].name})",
            where=root / "JPEGImages",
            hint="complete the download",
        )
    return tuple(pairs)


def _read_table(root: Path, path: Path, view: str) -> list[KeypointPair]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatasetError("larger than 64 MiB", where=path, hint="use the published table")
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"cannot be read as a table ({error})", where=path, hint="download it again"
        ) from error
    if not rows or tuple(cell.strip() for cell in rows[0]) != _COLUMNS:
        raise DatasetError(
            f"the first line is not {','.join(_COLUMNS)}", where=path, hint="download it again"
        )
    pairs = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        try:
            pairs.append(_pair(root / "JPEGImages", row, view))
        except ValueError as error:
            raise DatasetError(
                f"line {number}: {error}", where=path, hint="download it again"
            ) from error
    return pairs


def _pair(pictures: Path, row: list[str], view: str) -> KeypointPair:
    if len(row) != len(_COLUMNS):
        raise ValueError(f"{len(row)} of {len(_COLUMNS)} columns")
    number = float(row[2])
    if number != int(number) or not 1 <= number <= len(CATEGORIES):
        raise ValueError(f"class {row[2]} is none of 1..{len(CATEGORIES)}")
    first, second = _points(row[3], row[4]), _points(row[5], row[6])
    count = min(len(first), len(second))
    # A point that is marked absent in either picture (NaN) is no correspondence.
    known = ~(first[:count].isnan().any(1) | second[:count].isnan().any(1))
    return KeypointPair(
        pictures / _name(row[0]), pictures / _name(row[1]), int(number) - 1, view,
        first[:count][known], second[:count][known], len(first) != len(second),
    )  # fmt: skip


def _name(stated: str) -> str:
    """The last part of a path: the tables state it relative to the folder above the dataset."""
    name = PurePosixPath(stated.strip()).name
    if not name or name in (".", "..") or "\0" in name or "\\" in name:
        raise ValueError(f"{stated[:60]!r} is no file name")
    return name


def _points(xs: str, ys: str) -> Tensor:
    columns = [[float(cell) for cell in text.split(";") if cell.strip()] for text in (xs, ys)]
    if len(columns[0]) != len(columns[1]):
        raise ValueError(f"{len(columns[0])} x for {len(columns[1])} y")
    if any(math.isinf(value) for column in columns for value in column):
        raise ValueError("an infinite coordinate")
    return torch.tensor(columns, dtype=torch.float64).T.reshape(-1, 2)
