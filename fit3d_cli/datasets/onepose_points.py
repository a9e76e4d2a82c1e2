"""Key points of templates: what structure from motion left, in the two forms that are read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_cli.errors import DatasetError

_SFM = Path("sfm_output") / "outputs_softmax_loftr_loftr"
_AVERAGE = Path("anno") / "anno_3d_average.npz"
_MAX_BYTES = 512 << 20
_RESTORE = "run the structure from motion again, or restore the file"


@dataclass(frozen=True)
class Keypoints:
    """Points of one template, read when asked for.

    Attributes:
        path: File that tells which points are seen where.
        points: ``[N, 3]`` float64 all points of the object, metres.
        found: ``[K, 2]`` and ``[K, 3]`` where they are known already.
    """

    path: Path
    points: Tensor = field(repr=False)
    found: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def read(self) -> tuple[Tensor, Tensor]:
        """``[K, 2]`` float64 x, y in pixels of the photo and ``[K, 3]`` float64 object points.

        Raises:
            DatasetError: The file is damaged.
        """
        return self.found if self.found is not None else _assigned(self.path, self.points)


def find_keypoints(folder: Path, sequence: Path) -> Mapping[str, Keypoints]:
    """Key points of the templates of an object by the photos' stems; empty if there are none.

    Args:
        folder: The object's folder.
        sequence: The folder of its first video.

    Raises:
        DatasetError: A damaged file.
    """
    annotations = sorted((sequence / "anno_loftr").glob("*.json"))
    if annotations:
        places = [folder / _AVERAGE]
        places += [
            up / _SFM / folder.name / _AVERAGE for up in (folder.parent, *folder.parents[1:2])
        ]
        average = next((place for place in places if place.is_file()), None)
        if average is None:
            raise DatasetError(
                "anno_loftr without its 3D points", where=places[0],
                hint=f"put {_AVERAGE.name} of OnePose++'s sfm_output there",
            )  # fmt: skip
        points = read_points(average)
        return {path.stem: Keypoints(path, points) for path in annotations}
    model = sequence / "sparse"
    if (model / "images.txt").is_file() and (model / "points3D.txt").is_file():
        return _colmap(model)
    return {}


def read_points(path: Path) -> Tensor:
    """``[N, 3]`` float64 ``keypoints3d`` of an ``.npz`` file; no other entry is opened.

    Raises:
        DatasetError: Damaged, too large, pickled, or without such points.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("keypoints3d.npy").file_size > _MAX_BYTES:
                raise ValueError("larger than 512 MiB")
        with np.load(path, allow_pickle=False) as content:
            values = np.asarray(content["keypoints3d"])
        if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in "fiu":
            raise ValueError("keypoints3d is not [N, 3]")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile,
            NotImplementedError) as error:  # fmt: skip
        raise _damaged(path, str(error)) from error
    return torch.from_numpy(values.astype(np.float64))


def _assigned(path: Path, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of picture and object point of an annotation of OnePose++."""
    try:
        data = json.loads(_text(path))
        places = torch.tensor(data["keypoints2d"], dtype=torch.float64).reshape(-1, 2)
        matrix = torch.tensor(data["assign_matrix"])
        if matrix.numel() and matrix.dtype != torch.int64:
            raise ValueError("assign_matrix does not hold whole numbers")
        first, second = matrix.reshape(2, -1).long()
        for index, rows in ((first, places), (second, points)):
            if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(rows):
                raise ValueError("assign_matrix points outside")
    except (ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return _finite(places[first], points[second])


def _colmap(model: Path) -> dict[str, Keypoints]:
    """All templates of a COLMAP text model."""
    path = model / "images.txt"
    coordinates: dict[int, list[float]] = {}
    table: dict[str, Keypoints] = {}
    try:
        for words in _words(_text(model / "points3D.txt")):
            coordinates[int(words[0])] = [float(word) for word in words[1:4]]
        ids = torch.tensor(sorted(coordinates), dtype=torch.int64)
        points = torch.tensor([coordinates[int(i)] for i in ids], dtype=torch.float64).reshape(
            -1, 3
        )
        # Two lines per image; the second, its key points, may be empty.
        lines = [line for line in _text(path).split("\n") if not line.startswith("#")]
        for header, entries in zip(lines[::2], [*lines[1::2], ""], strict=False):
            if not header.strip():
                continue
            name = header.split(maxsplit=9)[9].strip()
            rows = torch.tensor([float(w) for w in entries.split()], dtype=torch.float64)
            rows = rows.reshape(-1, 3)
            rows = rows[rows[:, 2] >= 0]
            at = torch.searchsorted(ids, rows[:, 2].long())
            if len(rows) and not torch.equal(ids[at.clamp(max=len(ids) - 1)], rows[:, 2].long()):
                raise ValueError(f"{name} sees a point that is not in points3D.txt")
            table[Path(name).stem] = Keypoints(path, points, _finite(rows[:, :2], points[at]))
    except (ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise _damaged(path, str(error)) from error
    return table


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]


def _finite(places: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    known = torch.isfinite(places).all(1) & torch.isfinite(points).all(1)
    return places[known], points[known]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than 512 MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error


def _damaged(path: Path, reason: Any) -> DatasetError:
    shown = " ".join(str(reason).split())[:120]
    return DatasetError(f"damaged ({shown})", where=path, hint=_RESTORE)
