"""Frames of a video: blurred ones are passed over, static stretches collapse."""

from __future__ import annotations

import weakref
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fit3d_cli.capture.sources.picking import Picked, _grey, moved, pick, sharpness, thin

Frame = NDArray[np.uint8]


def blurred(frame: Frame, radius: float) -> Frame:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)))


@pytest.fixture(scope="module")
def walk(corner) -> list[Frame]:
    """Eighty frames of an arc, each a little further."""
    return [corner.render(0.2 + 0.012 * i, 160) for i in range(80)]


def indices(frames: list[Frame]) -> list[int]:
    return [picked.index for picked in pick(frames)]


def test_a_walk_is_covered_without_doubles(walk: list[Frame]) -> None:
    kept = indices(walk)
    assert 6 <= len(kept) <= 40
    gaps = [b - a for a, b in pairwise(kept)]
    assert min(gaps) >= 1 and max(gaps) <= 4 * max(1, int(np.median(gaps)))
    thumbs = [_grey(walk[i], 96) for i in kept]
    ways = [moved(a, b) for a, b in pairwise(thumbs)]
    assert 0.5 <= float(np.median(ways)) <= 2


def test_blurred_frames_are_not_picked(walk: list[Frame]) -> None:
    spoilt = {i for i in range(80) if i % 3 == 1}
    frames = [blurred(f, 2.5) if i in spoilt else f for i, f in enumerate(walk)]
    kept = indices(frames)
    assert len(kept) >= 6
    assert not spoilt & set(kept)


def test_static_stretches_collapse(walk: list[Frame]) -> None:
    generator = np.random.default_rng(0)

    def noisy(frame: Frame) -> Frame:
        noise = generator.normal(0, 3, frame.shape)
        return np.clip(frame + noise, 0, 255).astype(np.uint8)

    still = [noisy(walk[40]) for _ in range(60)]
    moving = indices([noisy(f) for f in walk])
    kept = indices([noisy(f) for f in walk[:40]] + still + [noisy(f) for f in walk[40:]])
    assert len(kept) <= len(moving) + 2
    assert sum(40 <= i < 100 for i in kept) <= 2
    assert len(indices(still)) == 1


def test_a_bad_frame_is_no_anchor(walk: list[Frame]) -> None:
    """One black and one smeared frame: neither is kept, nothing is lost around them."""
    frames = list(walk)
    frames[20] = np.zeros_like(frames[20])
    frames[50] = blurred(frames[50], 8)
    kept = indices(frames)
    assert not {20, 50} & set(kept)
    assert abs(len(kept) - len(indices(walk))) <= 2


def test_moved_measures_shift_turn_and_zoom(corner) -> None:
    wide = np.asarray(Image.fromarray(corner.render(0.7, 320)).convert("L"), np.float32)

    def cut(x: int, y: int = 60) -> NDArray[np.float32]:
        return np.ascontiguousarray(wide[y : y + 72, x : x + 96])

    assert moved(cut(80), cut(80)) == 0
    # 8 % of 96 pixels are 7.7.
    assert moved(cut(80), cut(84)) == pytest.approx(4 / 7.68, abs=0.15)
    assert moved(cut(80), cut(96)) == pytest.approx(16 / 7.68, abs=0.3)
    assert moved(cut(80), cut(80, 68)) == pytest.approx(8 / 7.68, abs=0.2)
    near = Image.fromarray(cut(80)).resize((144, 108)).crop((24, 18, 120, 90))
    assert moved(cut(80), np.asarray(near)) > 1
    blank = np.full((72, 96), 128, np.float32)
    assert moved(blank, blank) == 0 and moved(cut(80), blank) > 1


def test_sharpness_falls_with_blur(walk: list[Frame]) -> None:
    values = [sharpness(_grey(blurred(walk[0], r), 640)) for r in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 10 * values[3]


def test_frames_are_streamed(walk: list[Frame]) -> None:
    """No more than three frames are held: those before are free to go."""
    held: list[weakref.ref[Frame]] = []
    most = 0

    def stream() -> object:
        nonlocal most
        for frame in walk:
            copy = frame.copy()
            held.append(weakref.ref(copy))
            yield copy
            del copy
            most = max(most, sum(ref() is not None for ref in held))

    for picked in pick(stream()):  # type: ignore[arg-type]
        assert isinstance(picked, Picked)
        del picked
    assert most <= 4


def test_thin_takes_the_sharpest_of_equal_parts() -> None:
    sharp = [1.0, 5, 2, 9, 3, 4]
    assert thin(sharp, 0) == thin(sharp, 6) == [0, 1, 2, 3, 4, 5]
    assert thin(sharp, 3) == [1, 3, 5]
    assert thin(sharp, 1) == [3]
    assert thin([], 2) == []


def test_nothing_in_nothing_out() -> None:
    assert indices([]) == []
