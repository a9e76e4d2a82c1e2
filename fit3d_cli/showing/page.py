"""A page to click in: the likeness of every token of every picture to the one under the pointer."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fit3d_cli import __version__, viz
from fit3d_cli.capture.photos import Photos
from fit3d_cli.pages.html import data_uri, el, inline, json_block, render, source_hash
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.showing.sampling import Viewer
from fit3d_cli.storage import write_text
from fit3d_cli.viz.panels import Picture

PAGE_PICTURES = 24
# Numbers per token: as few of these as keep the mean error of the cosines below the bound.
DIMENSIONS = (16, 24, 32, 48, 64)
MAX_ERROR = 0.015
_MAX_ROWS = 60_000
_CHECKED = 2048
_QUALITY = 88  # of the photos' JPEG


def write_page(path: Path, photos: Photos, viewer: Viewer, *, on_event: OnEvent = ignore) -> float:
    """Write one HTML file that needs no other and no network.

    Tokens are scaled to unit length and projected to some ``DIMENSIONS`` numbers of 8 bits, so
    that scalar products of the projections are close to cosines (the best such projection: the
    leading eigenvectors of the tokens' second moment, Eckart and Young, 1936).

    Args:
        path: The file.
        photos: At least one.
        viewer: The models.
        on_event: Progress listener.

    Returns:
        The mean error of the cosines, also told on the page.

    Raises:
        ImageError: A photo cannot be read.
        StorageError: The file cannot be written.
    """
    seen: list[list[Tensor]] = []
    pictures = []
    for done, (image, tokens) in enumerate(
        zip(photos.paths, viewer.look(photos.paths), strict=True), 1
    ):
        seen.append([t / t.norm(dim=-1, keepdim=True).clamp(min=1e-12) for t in tokens])
        pictures.append(data_uri(_jpeg(viz.to_uint8(viewer.photo(image))), "image/jpeg"))
        on_event(Progress("page", done, len(photos.paths), photos.names[done - 1]))
    models = []
    errors = []
    for index, label in enumerate(viewer.labels):
        maps = [tokens[index] for tokens in seen]
        codes, scale, error = reduce_tokens(maps)
        errors.append(error)
        models.append({
            "label": label, "scale": scale.tolist(), "error": error,
            "grids": [list(t.shape[:2]) for t in maps],
            "codes": [base64.urlsafe_b64encode(c.tobytes()).decode("ascii") for c in codes],
        })  # fmt: skip
    write_text(path, _page(photos, pictures, models))
    return max(errors)


def reduce_tokens(
    maps: Sequence[Tensor],
) -> tuple[list[NDArray[np.int8]], NDArray[np.float32], float]:
    """Unit tokens as few numbers of 8 bits.

    Args:
        maps: ``[h, w, C]``, each token of unit length.

    Returns:
        ``[h * w, k]`` int8 per map, k one of ``DIMENSIONS`` or C; ``[k]`` factors that undo the
        rounding; and the mean absolute error of the cosines of some tokens to each other.
    """
    rows = torch.cat([tokens.reshape(-1, tokens.shape[-1]) for tokens in maps]).double()
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=draw)
    sample, checked = rows[order[:_MAX_ROWS].sort().values], rows[order[:_CHECKED]]
    vectors = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)
    vectors = vectors * torch.where((vectors**3).sum(0) < 0, -1.0, 1.0)
    full = (rows @ vectors[:, : DIMENSIONS[-1]]).abs().amax(0).clamp(min=1e-9) / 127
    exact = checked @ checked.T
    for dimensions in DIMENSIONS:
        basis, scale = vectors[:, :dimensions], full[:dimensions]
        short = ((checked @ basis) / scale).round() * scale
        error = float((short @ short.T - exact).abs().mean())
        if error <= MAX_ERROR:
            break
    codes = [
        ((tokens.reshape(-1, tokens.shape[-1]).double() @ basis) / scale).round().to(torch.int8)
        for tokens in maps
    ]
    return [c.numpy() for c in codes], scale.float().numpy(), error


def _jpeg(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _page(photos: Photos, pictures: list[str], models: list[dict[str, Any]]) -> str:
    folder = resources.files("fit3d_cli.showing")
    style = (folder / "page.css").read_text("utf-8")
    script = (folder / "page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_hash(style)}; "
        f"script-src {source_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    labels = [model["label"] for model in models]
    figures = [
        el(
            "section",
            el("h2", name),
            el("div", [
                el("figure",
                   el("div", el("img", src=picture, alt=name, draggable="false"), el("canvas"),
                      class_="eye", data_picture=index, data_model=number, tabindex=0),
                   el("figcaption", label if len(labels) > 1 else None, " ", el("output")))
                for number, label in enumerate(labels)
            ], class_="row"),
        )
        for index, (name, picture) in enumerate(zip(photos.names, pictures, strict=True))
    ]  # fmt: skip
    longest = max(len(model["scale"]) for model in models)
    worst = max(model["error"] for model in models)
    head = el(
        "head", el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", "fit3d viz"), inline("style", style),
    )  # fmt: skip
    bar = el(
        "header", el("h1", "What is alike?"),
        el("p", "Point at a picture; click to hold, Escape to let go. Colours show the cosine of "
           f"{' and '.join(labels)} tokens to the one you point at."),
        el("label", "heat ", el("input", type="range", id="heat", min=0, max=100, value=75)),
        el("label", el("input", type="checkbox", id="cells"), " show tokens"),
        el("label", el("input", type="checkbox", id="whole"), " colours from 0 to 1"),
        el("span", el("i", class_="ramp"), el("output", id="range"), class_="legend"),
    )  # fmt: skip
    foot = el(
        "footer",
        f"fit3d {__version__}. Tokens are stored as {longest} numbers of 8 bits: cosines are "
        f"{worst:.3f} off on average.",
    )
    data = json_block("tokens", {"models": models}, digits=9)
    body = el("body", bar, el("main", figures), foot, data, inline("script", script))
    return "<!doctype html>\n" + render(el("html", head, body, lang="en")) + "\n"
