"""One fit for all models that are shown together, where their channels correspond."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def shared(seen: Sequence[Sequence[Tensor]], fit: Callable[[list[Tensor]], T]) -> list[T]:
    """Fit once for all models where their channels correspond, else once for each.

    Args:
        seen: For each model the token maps ``[h, w, C]``, or rows ``[M, C]``.
        fit: Takes ``[M, C]`` rows, one tensor per model.

    Returns:
        One result per model.
    """
    groups = [torch.cat([t.reshape(-1, t.shape[-1]) for t in maps]) for maps in seen]
    if len({group.shape[1] for group in groups}) == 1:
        return [fit(groups)] * len(groups)
    return [fit([group]) for group in groups]


def file_names(names: Sequence[str], *, taken: Sequence[str] = ()) -> list[str]:
    """Plain ``.png`` file names for view names, no two the same on any file system.

    Args:
        names: Of the pictures.
        taken: File names that are used otherwise.
    """
    used = {PurePosixPath(name).stem.lower() for name in taken}
    files = []
    for name in names:
        stem = str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
        plain = re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[:100] or "picture"
        candidate, number = plain, 2
        while candidate.lower() in used:
            candidate, number = f"{plain}-{number}", number + 1
        used.add(candidate.lower())
        files.append(f"{candidate}.png")
    return files
