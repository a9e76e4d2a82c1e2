"""One photo and two models as a card with sliders."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from fit3d_cli import viz
from fit3d_cli.comparing.html import Markup, data_uri, el
from fit3d_cli.comparing.metrics import number
from fit3d_cli.comparing.pictures import FeaturePicture, enlarge
from fit3d_cli.images import encode_png

_PHOTO_SIDE = 440
_LABELS = ("base", "tuned")


def picture_card(picture: FeaturePicture) -> Markup:
    """Photo, PCA and k-means; the models lie over each other under a slider."""
    height, width = picture.photo.shape[:2]
    scale = min(1.0, _PHOTO_SIDE / max(width, height))
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    fine = [
        encode_png(enlarge(v.pca, 4 * v.pca.shape[1], 4 * v.pca.shape[0]))
        for v in (picture.base, picture.tuned)
    ]
    cells = [encode_png(viz.to_uint8(v.clusters)) for v in (picture.base, picture.tuned)]
    drift = picture.drift
    photo = el(
        "figure",
        el("div", _img(_jpeg(picture, shown), "image/jpeg", f"photo {picture.name}", shown),
           class_="frame"),
        el("figcaption", "Photo"),
    )  # fmt: skip
    return el(
        "section",
        el("h3", picture.name),
        el(
            "div",
            photo,
            _slider(fine, shown, "PCA: similar colours are similar features", ""),
            _slider(cells, shown, "k-means: features in groups", "cells"),
            class_="trio",
            style=f"--width: {shown[0]}px",
        ),
        el(
            "p",
            f"Tuned against base: cosine {number(drift.cosine)}, length ratio "
            f"{number(drift.norm_ratio)}."
            if drift
            else "The models' tokens do not correspond: each has its own colours.",
            class_="small soft",
        ),
        class_="card picture",
    )


def _slider(pngs: Sequence[bytes], size: tuple[int, int], caption: str, style: str) -> Markup:
    before, after = (
        _img(png, "image/png", f"{caption}, {label}", size, style)
        for png, label in zip(pngs, _LABELS, strict=True)
    )
    frame = el(
        "div",
        before,
        el("div", after, class_="after"),
        el("div", class_="bar"),
        el("span", _LABELS[0], class_="tag left"),
        el("span", _LABELS[1], class_="tag right"),
        el("input", type="range", min=0, max=100, value=50, step="any",
           aria_label=f"{_LABELS[0]} to the left, {_LABELS[1]} to the right"),
        class_="frame slider",
    )  # fmt: skip
    return el("figure", frame, el("figcaption", caption))


def _img(data: bytes, kind: str, alt: str, size: tuple[int, int], style: str = "") -> Markup:
    return el(
        "img", src=data_uri(data, kind), alt=alt, width=size[0], height=size[1],
        class_=style or None,
    )  # fmt: skip


def _jpeg(picture: FeaturePicture, size: tuple[int, int]) -> bytes:
    """The photo as JPEG: a PNG of it would fill the page's size budget."""
    image = Image.fromarray(viz.to_uint8(picture.photo)).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, optimize=True)
    return buffer.getvalue()
