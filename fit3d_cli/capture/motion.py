"""Whether a camera moved: frames of one standpoint say nothing new."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

MOVED = 0.01  # metres
TURNED = math.radians(1.0)


def moved(a: Tensor, b: Tensor) -> bool:
    """Whether two poses ``[4, 4]`` are a centimetre or a degree apart, in a metric world."""
    # The trace of a rotation by an angle is 1 + 2 cos(angle).
    cosine = (float((a[:3, :3] * b[:3, :3]).sum()) - 1) / 2
    turned = math.acos(min(1.0, max(-1.0, cosine))) >= TURNED
    return turned or float((a[:3, 3] - b[:3, 3]).norm()) >= MOVED


def that_differ(poses: Sequence[Tensor]) -> list[int]:
    """Indices of the poses that moved since the last one taken; the first is among them."""
    taken: list[int] = []
    for index, pose in enumerate(poses):
        if not taken or moved(poses[taken[-1]], pose):
            taken.append(index)
    return taken
