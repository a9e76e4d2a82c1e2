"""Which frames of a video to keep: sharp ones that differ enough.

Two measures per frame, both without features:

*Sharpness* is the variance of the Laplacian of the grey frame at 640 pixels width (Pech-Pacheco et
al., ICPR 2000). It depends on what is shown, so frames are compared with their neighbours in time
only.

*Motion* is measured against an anchor on grey thumbnails 96 pixels wide, where motion blur hardly
shows: phase correlation gives the shift; what the shift leaves unexplained is one minus the
correlation of the overlapping parts. A frame has moved on when it is shifted by 8 % of the width,
or when the correlation of what overlaps has fallen to 0.7, which is how turning, coming nearer and
passing by show. The first frame that has moved on becomes the next anchor, unless it is much
blurrier than those before it.

The frames from one anchor to the next are a stretch. The sharpest of those that have not moved
half of the way is kept (of the whole stretch where those are all much blurrier), so kept frames
lie between half a step and one and a half apart, and however long the camera stands still, one
frame remains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]
STEP = 0.08  # of the width
_ALIKE = 0.7
_SHARP_WIDTH, _THUMB_WIDTH = 640, 96
_MUCH_BLURRIER = 0.5  # of the sharpness of the frames before
_MEMORY = 30  # frames


@dataclass(frozen=True)
class Picked:
    """A frame that was kept.

    Attributes:
        index: Its number in the video, from 0.
        sharpness: Variance of the Laplacian.
        frame: ``[H, W, 3]`` uint8.
    """

    index: int
    sharpness: float
    frame: NDArray[np.uint8]


def sharpness(grey: Grey) -> float:
    """Variance of the 4-neighbour Laplacian of a ``[H, W]`` picture in 0..255."""
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def moved(anchor: Grey, other: Grey) -> float:
    """How far a thumbnail is from another one, in steps: 0 is the same, 1 is worth a new frame.

    Args:
        anchor: ``[H, W]`` grey thumbnail.
        other: Of the same size.
    """
    height, width = anchor.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    spectrum = np.fft.rfft2((anchor - anchor.mean()) * window)
    product = spectrum * np.conj(np.fft.rfft2((other - other.mean()) * window))
    surface = np.fft.irfft2(product / np.maximum(np.abs(product), 1e-6), s=anchor.shape)
    dy, dx = np.unravel_index(int(surface.argmax()), surface.shape)
    shifts = [(0, 0), (_signed(int(dy), height), _signed(int(dx), width))]
    # Without structure the peak is noise: the shift counts only where it explains the pictures.
    likeness = [_likeness(anchor, other, *shift) for shift in shifts]
    best = 1 if likeness[1] > likeness[0] else 0
    shift = float(np.hypot(*shifts[best])) / width
    return float(max(shift / STEP, (1 - likeness[best]) / (1 - _ALIKE)))


def _signed(shift: int, size: int) -> int:
    return shift - size if shift > size // 2 else shift


def _likeness(anchor: Grey, other: Grey, dy: int, dx: int) -> float:
    """Correlation of what both show when ``other`` is moved by the shift; 0 if it is little."""
    height, width = anchor.shape
    if abs(dy) > height // 2 or abs(dx) > width // 2:
        return 0.0
    a = anchor[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    b = other[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    a, b = a - a.mean(), b - b.mean()
    one, two = float((a * a).mean()), float((b * b).mean())
    if min(one, two) < 1:  # grey levels squared: a blank picture is like another blank one only
        return float(max(one, two) < 1)
    return float((a * b).mean() / np.sqrt(one * two))


def pick(frames: Iterable[NDArray[np.uint8]]) -> Iterator[Picked]:
    """The frames to keep, in order; at most three frames are in memory.

    Args:
        frames: ``[H, W, 3]`` uint8, of one size.
    """
    recent: deque[float] = deque(maxlen=_MEMORY)
    anchor: Grey | None = None
    near: Picked | None = None
    far: Picked | None = None
    for index, frame in enumerate(frames):
        grey = _grey(frame, _SHARP_WIDTH)
        thumb = _grey(frame, _THUMB_WIDTH)
        value = sharpness(grey)
        clear = not recent or value >= _MUCH_BLURRIER * median(recent)
        recent.append(value)
        way = 0.0 if anchor is None else moved(anchor, thumb)
        if anchor is None or (way >= 1 and clear):
            if near is not None or far is not None:
                yield _choose(near, far)
            anchor, near, far = thumb, Picked(index, value, frame), None
        elif way < 0.5:
            near = _sharper(near, index, value, frame)
        else:
            far = _sharper(far, index, value, frame)
    if near is not None or far is not None:
        yield _choose(near, far)


def _sharper(best: Picked | None, index: int, value: float, frame: NDArray[np.uint8]) -> Picked:
    return best if best is not None and best.sharpness >= value else Picked(index, value, frame)


def _choose(near: Picked | None, far: Picked | None) -> Picked:
    if near is None or (far is not None and near.sharpness < _MUCH_BLURRIER * far.sharpness):
        assert far is not None
        return far
    return near


def _grey(frame: NDArray[np.uint8], width: int) -> Grey:
    """Grey picture of about ``width`` columns, never enlarged, averaged over areas."""
    image = Image.fromarray(frame).convert("L")
    if image.width > width:
        height = max(2, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)


def thin(sharp: list[float], most: int) -> list[int]:
    """At most ``most`` of the kept frames: the sharpest of each of as many equal parts.

    Args:
        sharp: Sharpness of each kept frame, in order.
        most: 0 keeps all.
    """
    count = len(sharp)
    if most <= 0 or count <= most:
        return list(range(count))
    bounds = [count * k // most for k in range(most + 1)]
    parts = (range(a, b) for a, b in pairwise(bounds))
    return [max(part, key=lambda i: sharp[i]) for part in parts]
