"""Strict reading of small text and JSON files: every surprise is a ``CaptureError``."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from fit3d_cli.errors import CaptureError
from fit3d_cli.images import image_size

MAX_TEXT_BYTES = 256 << 20
MOST_PIXELS = 1 << 20  # of a side
RESTORE = "copy the file again from the source, or export the capture anew"


def read_bytes(path: Path, limit: int = 1 << 40) -> bytes:
    """The bytes of a file.

    Raises:
        CaptureError: Missing, unreadable, no file, or larger than ``limit`` bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # pipes and devices never end
            raise CaptureError("not a file", where=path, hint=RESTORE)
        if status.st_size > limit:
            raise CaptureError(
                f"{status.st_size} bytes, the limit is {limit}",
                where=path,
                hint="split the capture",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CaptureError("no such file", where=path, hint="restore the file") from error
    except OSError as error:
        raise CaptureError(
            f"cannot be read ({error.strerror})", where=path, hint="check the file's permissions"
        ) from error


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """UTF-8 text; undecodable bytes of file names survive as surrogates.

    Raises:
        CaptureError: As ``read_bytes``.
    """
    return read_bytes(path, limit).decode("utf-8-sig", "surrogateescape")


class Fields:
    """Typed access to the fields of a JSON object, with errors that name the file and the field.

    Args:
        data: The object.
        path: The file that it came from.
        label: Where in the file, e.g. ``"frames[3]"``; empty at the top.
        base: Fields that are looked up where ``data`` lacks them (per-file defaults).
    """

    def __init__(self, data: Any, path: Path, label: str = "", base: Fields | None = None) -> None:
        self.path = path
        self.label = label
        self._base = base
        if not isinstance(data, dict):
            self.fail("expected an object")
        self._data: dict[str, Any] = data

    def fail(self, what: str, field: str = "") -> NoReturn:
        """Raise CaptureError about this object or one of its fields."""
        at = ".".join(part for part in (self.label, field) if part)
        raise CaptureError(f"{at}: {what}" if at else what, where=self.path, hint=RESTORE)

    def __contains__(self, field: str) -> bool:
        return field in self._data or (self._base is not None and field in self._base)

    def get(self, field: str) -> Any:
        """The raw value, or None."""
        if field in self._data:
            return self._data[field]
        return None if self._base is None else self._base.get(field)

    def number(self, field: str, default: float | None = None) -> float:
        """A finite number; without a default the field must be there."""
        value = self.get(field)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fail(f"expected a number, found {_kind(value)}", field)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.fail("expected a finite number", field)
        return number

    def size(self, field: str) -> int:
        """A positive whole number of pixels."""
        value = self.number(field)
        if value != int(value) or not 0 < value < MOST_PIXELS:
            self.fail(f"expected a positive whole number, found {value:g}", field)
        return int(value)

    def text(self, field: str, default: str | None = None) -> str:
        """A string; without a default the field must be there and not be empty."""
        value = self.get(field)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            self.fail(f"expected a text, found {_kind(value)}", field)
        return value

    def flag(self, field: str) -> bool:
        """True or false; false when absent."""
        value = self.get(field)
        if value is not None and not isinstance(value, bool):
            self.fail(f"expected true or false, found {_kind(value)}", field)
        return bool(value)

    def numbers(self, field: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        values = self.get(field)
        if not isinstance(values, list):
            self.fail(f"expected a list of numbers, found {_kind(values)}", field)
        row = Fields({str(i): value for i, value in enumerate(values)}, self.path,
                     f"{self.label}.{field}" if self.label else field)  # fmt: skip
        return tuple(row.number(str(i)) for i in range(len(values)))

    def pose(self, field: str) -> Tensor:
        """``[4, 4]`` float64 from a 4x4 or 3x4 list of rows."""
        rows = self.get(field)
        if not isinstance(rows, list) or len(rows) not in (3, 4):
            self.fail("expected a 4x4 matrix", field)
        wrapped = Fields(
            {f"{field}[{i}]": row for i, row in enumerate(rows)}, self.path, self.label
        )
        values = [wrapped.numbers(f"{field}[{i}]") for i in range(len(rows))]
        if any(len(row) != 4 for row in values):
            self.fail("expected a 4x4 matrix", field)
        if len(values) == 3:
            values.append((0.0, 0.0, 0.0, 1.0))
        return torch.tensor(values, dtype=torch.float64)

    def objects(self, field: str) -> list[Fields]:
        """A list of objects; fields that they lack are looked up here."""
        values = self.get(field)
        if not isinstance(values, list):
            self.fail(f"expected a list, found {_kind(values)}", field)
        return [Fields(v, self.path, f"{field}[{i}]", self) for i, v in enumerate(values)]


def read_json(path: Path) -> Fields:
    """A JSON file that holds one object; NaN and infinity are refused, as the standard does.

    Raises:
        CaptureError: As ``read_bytes``, or not such a file.
    """

    def refuse(word: str) -> NoReturn:
        raise CaptureError(f"{word} is not JSON", where=path, hint=RESTORE)

    try:
        data = json.loads(read_text(path), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise CaptureError(
            f"not JSON (line {error.lineno}: {error.msg})", where=path, hint=RESTORE
        ) from error
    except (RecursionError, ValueError) as error:
        raise CaptureError("not sensible JSON", where=path, hint=RESTORE) from error
    return Fields(data, path)


def read_matrix(path: Path, sides: tuple[int, ...]) -> Tensor:
    """``[n, n]`` float64, n one of ``sides``, from numbers that stand in a text file.

    Infinity and NaN are legal here: sensors write them where they lost track, and the checks of
    poses count them.

    Raises:
        CaptureError: As ``read_bytes``, or other than n x n numbers.
    """
    words = read_text(path, 1 << 16).replace(",", " ").split()
    side = round(len(words) ** 0.5)
    if side not in sides or side * side != len(words):
        raise CaptureError(
            f"{len(words)} numbers, expected {' or '.join(f'{s}x{s}' for s in sides)}",
            where=path,
            hint=RESTORE,
        )
    return torch.tensor(numbers(words, path), dtype=torch.float64).reshape(side, side)


def read_pinhole(path: Path) -> Tensor:
    """``[3, 3]`` float64 K from a 3x3 or 4x4 matrix in a text file.

    Raises:
        CaptureError: As ``read_matrix``, or with skew or a last row that no pinhole has.
    """
    K = read_matrix(path, (3, 4))[:3, :3]
    rest = K - intrinsics(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    if not bool((rest.abs() <= 1e-6 * K.abs().max()).all()):
        raise CaptureError(
            "not a pinhole matrix [fx 0 cx; 0 fy cy; 0 0 1]", where=path, hint=RESTORE
        )
    return K.clone()


def numbers(words: Iterable[str], path: Path, line: int = 0) -> list[float]:
    """Numbers as C programs print them, infinities and NaN among them.

    Args:
        words: As they stand in the file.
        path: The file, for messages.
        line: The line, for messages; 0 says none.

    Raises:
        CaptureError: A word is no number.
    """
    values = []
    for word in words:
        try:
            values.append(float("nan" if "#" in word else word))  # "-1.#IND" is Windows' NaN
        except ValueError as error:
            what = f"{word[:40]!r} is no number"
            raise CaptureError(
                f"line {line}: {what}" if line else what, where=path, hint=RESTORE
            ) from error
    return values


def numeric_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sorts ``10.jpg`` behind ``9.jpg``: digits count as numbers."""
    # Texts and numbers alternate, so that only like is compared with like. A number is its count
    # of digits, then its digits: names may hold more of them than Python makes an integer of.
    parts = re.split(r"([0-9]+)", name)
    short = [part.lstrip("0") if i % 2 else part for i, part in enumerate(parts)]
    return [(len(part), part) if i % 2 else part for i, part in enumerate(short)], name


def locate(root: Path, stated: str, source: Path) -> tuple[str, Path]:
    """Name and place of a file that a capture file mentions.

    Args:
        root: The capture.
        stated: The path as written, relative to ``root`` or absolute inside it.
        source: The file that states it, for messages.

    Returns:
        Its normalised POSIX path relative to ``root``, without leading ``..``, and where it lies.

    Raises:
        CaptureError: Absolute and outside the capture, or no file name at all.
    """
    place = root / stated
    if "\\" in stated and not place.exists():  # written on Windows
        stated = stated.replace("\\", "/")
        place = root / stated
    if Path(stated).is_absolute():
        try:
            stated = Path(stated).relative_to(root.absolute()).as_posix()
        except ValueError as error:
            raise CaptureError(
                f"absolute path {stated}", where=source, hint="use paths relative to the capture"
            ) from error
    # Photos may lie beside the capture, but results are named after them: no name leads outside.
    name = Path(*(p for p in Path(os.path.normpath(stated)).parts if p != "..")).as_posix()
    if "\0" in name or name == ".":
        raise CaptureError(f"no file name: {stated!r}", where=source, hint=RESTORE)
    return name, place


def invert_pose(c2w: Tensor) -> Tensor:
    """``[4, 4]`` world-to-camera matrix; NaN where there is no inverse, for the common checks."""
    inverse: Tensor
    inverse, info = torch.linalg.inv_ex(c2w)
    if int(info) != 0 or not bool(torch.isfinite(c2w).all()):
        return torch.full_like(c2w, torch.nan)
    return inverse


def stored_size(photo: Path) -> tuple[int, int]:
    """Width and height of a photo; 1, 1 if it is not there, which the common checks report."""
    return image_size(photo) if photo.is_file() else (1, 1)


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """``[3, 3]`` float64 K."""
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)


def _kind(value: Any) -> str:
    names = {type(None): "nothing", bool: "true/false", str: "a text", list: "a list",
             dict: "an object", int: "a number", float: "a number"}  # fmt: skip
    return names.get(type(value), type(value).__name__)
