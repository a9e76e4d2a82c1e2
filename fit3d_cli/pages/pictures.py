"""Pictures inside the page: photos as JPEG, maps as PNG, two of them under a slider."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fit3d_cli.images import encode_png
from fit3d_cli.pages.html import Markup, Node, data_uri, el

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """One captioned picture.

    Attributes:
        caption: Short plain text.
        pixels: ``[H, W, 3]`` uint8.
        photo: Whether it is one; photos are stored as JPEG, everything else without loss.
    """

    caption: str
    pixels: Pixels
    photo: bool = False


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """``(width, height)`` with a long side of at most ``side`` pixels."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def image(data: bytes, kind: str, alt: str, size: tuple[int, int], style: str = "") -> Markup:
    """An ``img`` of ``size`` (width, height) pixels that holds its data."""
    return el(
        "img", src=data_uri(data, kind), alt=alt, width=size[0], height=size[1],
        class_=style or None,
    )  # fmt: skip


def encode_jpeg(pixels: Pixels, size: tuple[int, int]) -> bytes:
    """A photo as JPEG: a PNG of it would fill the page's size budget."""
    scaled = Image.fromarray(pixels)
    if scaled.size != size:
        scaled = scaled.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    scaled.save(buffer, format="JPEG", quality=84, optimize=True)
    return buffer.getvalue()


def figure(shown: Shown, about: str, side: int) -> Markup:
    """A picture with its caption, its long side at most ``side`` pixels.

    Args:
        shown: What to show.
        about: Name of what it shows, for those who cannot see it.
        side: Pixels.
    """
    size = fitted(shown.pixels.shape[1], shown.pixels.shape[0], side)
    if shown.photo:
        data, kind = encode_jpeg(shown.pixels, size), "image/jpeg"
    else:
        small = Image.fromarray(shown.pixels).resize(size, Image.Resampling.NEAREST)
        data, kind = encode_png(np.asarray(small)), "image/png"
    return el(
        "figure",
        el("div", image(data, kind, f"{shown.caption}: {about}", size), class_="frame"),
        el("figcaption", shown.caption),
    )


def slider(
    before: Markup, after: Markup, labels: tuple[str, str], caption: Node, about: str
) -> Markup:
    """Two pictures over each other; a range input, mouse or keys, moves the cut between them.

    Args:
        before: ``image`` that is seen to the left of the cut.
        after: The other one, of the same size.
        labels: What they are.
        caption: Below.
        about: Name of the control for those who cannot see it.
    """
    frame = el(
        "div",
        before,
        el("div", after, class_="after"),
        el("div", class_="bar"),
        el("span", labels[0], class_="tag left"),
        el("span", labels[1], class_="tag right"),
        el("input", type="range", min=0, max=100, value=50, step=1,
           aria_label=f"{about}: {labels[0]} to the left, {labels[1]} to the right"),
        class_="frame slider",
    )  # fmt: skip
    return el("figure", frame, el("figcaption", caption))
