"""Which format a file has, what it holds, and what every format shares."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fit3d_cli.errors import ArchiveError, MemoryFault
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh
from fit3d_cli.registry import Registry
from fit3d_cli.shapes import check_dims

HEAD_BYTES = 1 << 16
BLOCK = 1 << 16  # rows that are unpacked at a time: what a reader needs beside its result
REMAKE_HINT = "export it again from the program that made it"


@dataclass(frozen=True)
class Contents:
    """What a file says, before anything is refused.

    Attributes:
        gaussians: N Gaussians with unit quaternions; those of a damaged file may be NaN.
        good: ``[N]`` bool, False for Gaussians that no renderer could use.
        facts: What else the file says of itself, in JSON types.
    """

    gaussians: Gaussians
    good: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One file format of Gaussians.

    Attributes:
        name: What users call it.
        suffix: Of files, lower case.
        sniff: Whether the first ``HEAD_BYTES`` of a file are of this format; where a format has
            no mark of its own the file's name decides, which is the second argument.
        read: Reads an open file, of which the path is for messages only.
        write: Writes, atomically; None for formats that are only read.
    """

    name: str
    suffix: str
    sniff: Callable[[bytes, Path], bool]
    read: Callable[[BinaryIO, Path], Contents]
    write: Callable[[Path, Gaussians], None] | None = None


FORMATS: Registry[Format] = Registry("format of Gaussians", "fit3d_cli.formats")


def read_gaussians(path: Path, *, drop_invalid: bool = False) -> Gaussians:
    """Read Gaussians from any registered format; the content decides which, not the name.

    Args:
        path: The file.
        drop_invalid: Leave out Gaussians with NaN, infinity, a zero quaternion or a scale that
            float32 cannot hold, instead of refusing the file.

    Returns:
        N Gaussians with unit quaternions, in the world frame of a ``.ply`` and the file's order.

    Raises:
        ArchiveError: No such format, damaged, or with invalid Gaussians.
    """
    contents = _contents(path)[1]
    good = contents.good
    bad = int((~good).sum())
    if not bad:
        return contents.gaussians
    if not drop_invalid:
        first = int((~good).nonzero()[0])
        raise ArchiveError(
            f"{bad} of {len(good)} Gaussians are not finite or have a zero quaternion, "
            f"first {first}",
            where=path,
            hint="remove them in the program that made it, or drop invalid Gaussians on import",
        )
    return contents.gaussians.select(good)


def describe_gaussians(path: Path) -> dict[str, Any]:
    """What a file of Gaussians holds, in JSON types.

    Raises:
        ArchiveError: No such format, or damaged; invalid Gaussians are only counted.
    """
    kind, contents = _contents(path)
    own = contents.gaussians.select(contents.good)
    described: dict[str, Any] = {
        "kind": "gaussians",
        "format": kind.name,
        "bytes": path.stat().st_size,
        "gaussians": len(contents.good),
        "invalid": int((~contents.good).sum()),
        "sh_degree": own.sh_degree,
    }
    if len(own):
        described |= {
            "low": [round(v, 6) for v in own.means.amin(0).tolist()],
            "high": [round(v, 6) for v in own.means.amax(0).tolist()],
            "median_scale": float(own.scales.median()),
            "mean_opacity": float(own.opacities.double().mean()),
        }
    return described | dict(contents.facts)


def write_gaussians(path: Path, gaussians: Gaussians, *, rgb: Tensor | None = None) -> None:
    """Write Gaussians in the format that the path's suffix names.

    Args:
        path: The file.
        gaussians: N Gaussians.
        rgb: ``[N, 3]`` colours in [0, 1] to show instead of the Gaussians' own, e.g. the PCA of
            features. They are the same from all sides: the view-dependent part is left out.

    Raises:
        ArchiveError: The suffix names no format that is written.
        StorageError: The file could not be written; a previous one is intact.
    """
    write = writer(path)
    if rgb is not None:
        gaussians = recoloured(gaussians, rgb)
    write(path, gaussians)


def writer(path: Path) -> Callable[[Path, Gaussians], None]:
    """The writer for a path.

    Raises:
        ArchiveError: Its suffix names no format that is written.
    """
    name = path.name.lower()
    # The longest suffix wins: "a.compressed.ply" is not a plain .ply.
    named = [kind for _, kind in FORMATS.items() if name.endswith(kind.suffix)]
    kind = max(named, key=lambda kind: len(kind.suffix), default=None)
    if kind is None or kind.write is None:
        raise ArchiveError(
            f"no format of Gaussians that can be written ends in {path.suffix or path.name!r}",
            where=path,
            hint=f"name a file that ends in {', '.join(suffixes(written=True))}",
        )
    return kind.write


def suffixes(*, written: bool = False) -> list[str]:
    """File name endings of the registered formats, or of those that can be written."""
    return [kind.suffix for _, kind in FORMATS.items() if kind.write is not None or not written]


def recoloured(gaussians: Gaussians, rgb: Tensor) -> Gaussians:
    """The same Gaussians in ``[N, 3]`` colours in [0, 1], equal from all sides."""
    check_dims(rgb=(rgb, f"{len(gaussians)} 3"))
    return replace(gaussians, sh=rgb_to_sh(rgb.detach().to(gaussians.means))[:, None])


def empty_gaussians(count: int, coefficients: int) -> Gaussians:
    """Memory for Gaussians that a reader fills block by block.

    Raises:
        MemoryFault: There is not so much.
    """
    try:
        return Gaussians(
            means=torch.empty(count, 3),
            quats=torch.empty(count, 4),
            scales=torch.empty(count, 3),
            opacities=torch.empty(count),
            sh=torch.empty(count, coefficients, 3),
        )
    except (RuntimeError, MemoryError) as error:  # torch has no error of its own for it
        size = count * 4 * (11 + 3 * coefficients) / 2**30
        raise MemoryFault(
            f"{count} Gaussians of {size:.1f} GiB do not fit into memory",
            hint="use a machine with more memory",
        ) from error


def usable(gaussians: Gaussians) -> Tensor:
    """``[N]`` bool: finite, with a rotation and scales above zero."""
    good = torch.empty(len(gaussians), dtype=torch.bool)
    for start in range(0, len(gaussians), BLOCK):
        rows = slice(start, start + BLOCK)
        finite = gaussians.means[rows].isfinite().all(1) & gaussians.quats[rows].isfinite().all(1)
        finite &= gaussians.sh[rows].flatten(1).isfinite().all(1)
        finite &= gaussians.opacities[rows].isfinite()
        scales = gaussians.scales[rows]
        good[rows] = finite & ((scales > 0) & scales.isfinite()).all(1)
    return good


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """An open regular file; failures of the system become ArchiveError.

    Raises:
        ArchiveError: Missing, no file, or not readable.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ArchiveError("cannot be read: not a file", where=path, hint="name a file")
            yield file
    except FileNotFoundError as error:
        raise ArchiveError("no such file", where=path, hint="check the path") from error
    except OSError as error:
        raise ArchiveError(
            f"cannot be read: {error.strerror or error}",
            where=path,
            hint="check the path and its mode",
        ) from error


def damaged(path: Path, what: str) -> ArchiveError:
    """An error for a file that does not hold what it announces."""
    return ArchiveError(what, where=path, hint=REMAKE_HINT)


def _contents(path: Path) -> tuple[Format, Contents]:
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        for _, kind in FORMATS.items():
            if kind.sniff(head, path):
                file.seek(0)
                return kind, kind.read(file, path)
    if path.suffix.lower() == ".ply":
        raise ArchiveError("not a .ply file", where=path, hint="pass a 3DGS .ply")
    raise ArchiveError(
        "not a file of Gaussians" if head else "not a file of Gaussians: it is empty",
        where=path,
        hint=f"pass a {', '.join(suffixes())} that a Gaussian splatting program exported",
    )
