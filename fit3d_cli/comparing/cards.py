"""One photo and two models as a card with sliders."""

from __future__ import annotations

from collections.abc import Sequence

from fit3d_cli import viz
from fit3d_cli.comparing.pictures import FeaturePicture, enlarge
from fit3d_cli.images import encode_png
from fit3d_cli.pages.html import Markup, el, name
from fit3d_cli.pages.metrics import number
from fit3d_cli.pages.pictures import encode_jpeg, fitted, image, slider

_PHOTO_SIDE = 440
_LABELS = ("base", "tuned")


def picture_card(picture: FeaturePicture) -> Markup:
    """Photo, PCA and k-means; the models lie over each other under a slider."""
    height, width = picture.photo.shape[:2]
    shown = fitted(width, height, _PHOTO_SIDE)
    fine = [
        encode_png(enlarge(v.pca, 4 * v.pca.shape[1], 4 * v.pca.shape[0]))
        for v in (picture.base, picture.tuned)
    ]
    cells = [encode_png(viz.to_uint8(v.clusters)) for v in (picture.base, picture.tuned)]
    drift = picture.drift
    jpeg = encode_jpeg(viz.to_uint8(picture.photo), shown)
    photo = el(
        "figure",
        el("div", image(jpeg, "image/jpeg", f"photo {picture.name}", shown), class_="frame"),
        el("figcaption", "Photo"),
    )
    return el(
        "section",
        el("h3", name(picture.name)),
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


def worst_first(pictures: Sequence[FeaturePicture]) -> list[FeaturePicture]:
    """The pictures whose features moved the most first; those that cannot be told, last."""
    return sorted(pictures, key=lambda p: (p.drift is None, p.drift.cosine if p.drift else 0.0))


def _slider(pngs: Sequence[bytes], size: tuple[int, int], caption: str, style: str) -> Markup:
    kind = caption.partition(":")[0]
    before, after = (
        image(png, "image/png", f"{kind}, {label}", size, style)
        for png, label in zip(pngs, _LABELS, strict=True)
    )
    return slider(before, after, _LABELS, caption, kind)
