"""Pictures, captures, point clouds, lists and profiles as they come from strangers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fit3d_cli import images
from fit3d_cli.errors import ImageError
from tests.reliability import _damage, _layouts, _pictures, _profiles
from tests.reliability._judge import AREA, BOMB, SLOWEST, SPARE, Judge, short_of_memory
from tests.reliability.base import Outcome, Trial, check

__all__ = ["_layouts", "_profiles"]  # register checks of their own


@check(
    "images",
    area=AREA,
    promise="A picture is read as exactly what it shows, or refused with one line that names it; "
    "nothing is clipped, turned or guessed, and no small file takes long or much memory",
    goal="every kind of PNG, JPEG, WebP; every cut; 10,000 mutations; bombs in <= 10 ms",
)
def run_images(trial: Trial) -> Outcome:
    outcome = Outcome()
    judge = Judge(outcome, (ImageError,), SLOWEST)
    pictures = [*_pictures.png_matrix(), *_pictures.other_matrix()]
    for picture in pictures:
        read_one(judge, outcome, trial.folder / picture.name, picture)
    kinds = outcome.cases
    cuts(judge, trial, pictures)
    shapes(judge, trial, pictures)
    slow = Judge(outcome, (ImageError,), BOMB)
    for name, data in _pictures.bombs():
        path = trial.folder / name
        path.write_bytes(data)
        with short_of_memory(SPARE):
            for read in (images.image_header, images.read_photo):
                slow.call(f"{name}, {read.__name__}", lambda p=path, r=read: r(p), names=name)
    outcome.figure = (
        f"{kinds} readings of {len(pictures)} kinds of picture, {judge.ends.total() - kinds:,} of "
        f"cut and mutated ones (worst {judge.worst * 1000:.0f} ms, or that per megapixel), "
        f"{slow.ends.total() // 2} bombs (worst {slow.worst * 1000:.1f} ms, "
        f"{SPARE >> 20} MiB to spare)"
    )
    return outcome


def read_one(judge: Judge, outcome: Outcome, path: Path, want: _pictures.Picture) -> None:
    """Photo, depth, labels and mask of one picture, against what they mean."""
    path.write_bytes(want.data)
    for kind, read, truth in (
        ("photo", images.read_photo, want.photo),
        ("depth", images.read_depth, want.depth),
        ("labels", images.read_labels, want.labels),
        ("mask", images.read_mask, None if want.photo is None else want.photo.any(axis=2)),
    ):
        got, failure = judge.call(f"{want.name} as {kind}", lambda r=read: r(path), want.name)
        if truth is None:
            refused = failure is not None and (kind != "photo" or want.says in str(failure))
            # What is wrong with the photo need not be wrong with the mask.
            outcome.require(refused or kind == "mask", f"{want.name} as {kind}: {got} {failure}")
            continue
        if failure is not None:
            outcome.require(False, f"{want.name} as {kind}: {failure}")
            continue
        if kind == "photo":
            got, alpha = got
            same = alpha is None if want.alpha is None else np.array_equal(alpha, want.alpha)
            outcome.require(same, f"{want.name}: wrong opacity")
        # Lossy black is not always black.
        if kind != "mask" or not want.off:
            off = np.abs(got.astype(float) - truth).mean() if got.shape == truth.shape else np.inf
            outcome.require(off <= want.off, f"{want.name} as {kind}: off by {off}")


def cuts(judge: Judge, trial: Trial, pictures: list[_pictures.Picture]) -> None:
    """A picture that ends early is whole or refused."""
    names = ("png-2-8.png", "png-3-8-laced.png", "base.jpg", "progressive.jpg", "lossy.webp")
    step = trial.size(1, 23)
    for picture in pictures:
        if picture.name not in names:
            continue
        path = trial.folder / f"cut-{picture.name}"
        path.write_bytes(picture.data)
        whole = images.read_photo(path)[0]
        for size in range(0, len(picture.data), step):
            path.write_bytes(picture.data[:size])
            got, _ = judge.call(
                f"{picture.name} cut at {size}", lambda p=path: images.read_photo(p), path.name
            )
            judge.outcome.require(
                got is None or np.array_equal(got[0], whole), f"{picture.name} cut at {size}"
            )


def shapes(judge: Judge, trial: Trial, pictures: list[_pictures.Picture]) -> None:
    """Mutated pictures: refused, or arrays of the size in the header."""
    draw = trial.draw("pictures")
    seeds = [picture for picture in pictures if picture.data]
    others = [picture.data for picture in seeds]
    readers = (images.image_header, images.read_photo, images.read_mask, images.read_depth,
               images.read_labels)  # fmt: skip
    for number in range(trial.size(10_000, 150)):
        seed = draw.choice(seeds)
        data = _damage.bytes_of(seed.data, draw, others)
        data = _damage.with_checksums(data) if draw.random() < 0.6 else data
        path = trial.folder / f"mutated{Path(seed.name).suffix}"
        path.write_bytes(data)
        size = None
        for read in readers:
            what = f"mutation {number} of {seed.name}, {read.__name__}"
            # A header may have become that of a large picture, which takes its time.
            times = max(1.0, size[0] * size[1] / 1e6) if size else 1.0
            got, _ = judge.call(what, lambda p=path, r=read: r(p), path.name, times)
            if got is None:
                continue
            if read is images.image_header:
                size = (got.height, got.width)
                continue
            array = got[0] if isinstance(got, tuple) else got
            judge.outcome.require(array.shape[:2] == size, f"{what}: {array.shape}, not {size}")
