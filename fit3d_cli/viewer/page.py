"""``--export view.html``: the scene in one file that any browser opens, without a network.

The file draws by itself (WebGL 2). It switches layers and answers clicks as the viewer does; the
codes that it compares are the viewer's, shortened to 24 numbers of 8 bits, so its cosines are
close and not equal. A policy in the file forbids the browser to load anything.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.pages.html import source_hash
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.storage import require_writable, write_text
from fit3d_cli.viewer.cameras import choose_start, view_angle, viewmat_of
from fit3d_cli.viewer.session import Session
from fit3d_cli.viewer.similarity import Codes
from fit3d_cli.viewer.splats import to_bytes

_HERE = Path(__file__).parent
_CODE = 24  # numbers per Gaussian to compare by
_ROWS = 20_000  # on which they are found
_VIEWS = 400
_LABELS = {"rgb": "colour", "pca": "PCA", "kmeans": "k-means", "depth": "depth",
           "text": "words", "similarity": "similarity"}  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True)
class Page:
    """What was written.

    Attributes:
        size: Bytes of the file.
        drawn: Splats in it.
        gaussians: Gaussians of the scene.
    """

    size: int
    drawn: int
    gaussians: int


def write_page(session: Session, target: Path, *, on_event: OnEvent = ignore) -> Page:
    """Write what a session shows as one HTML file.

    Args:
        session: What is shown. Its k is the k of the k-means layer.
        target: The file.
        on_event: Progress listener.

    Raises:
        Fit3dError: Words are looked for and their model cannot be read.
        StorageError: The file cannot be written.
    """
    require_writable(target.parent)
    steps = ("colours", "codes", "page")
    on_event(Progress("export", 0, len(steps), steps[0]))
    layers = _layers(session)
    on_event(Progress("export", 1, len(steps), steps[1]))
    short, project = shorten(session.painter.codes)
    on_event(Progress("export", 2, len(steps), steps[2]))
    numbers = _numbers(session, layers, short[session.drawn])
    facts = _facts(session, layers, project)
    text = _page(session, facts, numbers)
    write_text(target, text)
    on_event(Progress("export", len(steps), len(steps)))
    return Page(len(text.encode()), len(session.drawn), len(session.scene.gaussians))


def shorten(codes: Codes) -> tuple[Tensor, Tensor]:
    """Codes as few small integers.

    Args:
        codes: ``[N, r]`` unit rows.

    Returns:
        ``[N, 24]`` int8 (fewer for a small r) and ``[r, 24]`` the projection to them: the
        directions that keep the most of the dot products, those of the largest second moments.
    """
    rows = codes.rows[:: max(1, len(codes.rows) // _ROWS)].double()
    vectors = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :_CODE]
    signs = (vectors**3).sum(0).sign()
    project = (vectors * torch.where(signs == 0, 1.0, signs)).float()
    return (codes.rows @ project * 127).round().clamp(-127, 127).to(torch.int8), project


def _layers(session: Session) -> dict[str, Tensor]:
    """Colours ``[M, 3]`` uint8 per layer besides ``rgb``, in the order of the file."""
    painter, drawn = session.painter, session.drawn
    start = choose_start(session.scene)
    layers = {
        "pca": painter.pca,
        "kmeans": painter.kmeans(session.look.clusters),
        "depth": painter.depth(viewmat_of(start.position, start.look_at, start.up)),
    }
    if session.look.text:
        scores = session.scores()
        assert scores is not None
        layers["text"] = painter.heat(scores)
    return {name: torch.from_numpy(to_bytes(colours[drawn])) for name, colours in layers.items()}


def _numbers(session: Session, layers: Mapping[str, Tensor], codes: Tensor) -> str:
    gaussians = session.scene.gaussians.select(session.drawn)
    quats = torch.nn.functional.normalize(gaussians.quats, dim=1)
    alphas = torch.from_numpy(to_bytes(gaussians.opacities[:, None]))
    base = torch.cat([torch.from_numpy(to_bytes(session.painter.rgb[session.drawn])), alphas], 1)
    parts = [gaussians.means.float(), gaussians.scales.float(), quats.float(), base,
             *layers.values(), codes]  # fmt: skip
    packed = b"".join(part.contiguous().numpy().tobytes() for part in parts)
    return base64.b64encode(gzip.compress(packed, 6, mtime=0)).decode("ascii")


def _facts(session: Session, layers: Mapping[str, Tensor], project: Tensor) -> dict[str, Any]:
    scene, look = session.scene, session.look
    start = choose_start(scene)
    step = max(1, -(-len(scene.names) // _VIEWS))
    shown = sorted({*range(0, len(scene.names), step), start.view})
    poses = scene.cameras.camtoworlds
    views = [
        {"name": scene.names[i], "heldout": bool(scene.heldout[i]), "fov": view_angle(scene, i),
         "eye": poses[i, :3, 3].tolist(), "forward": poses[i, :3, 2].tolist()}
        for i in shown
    ]  # fmt: skip
    ramp = viz.error_to_rgb(torch.linspace(0, 1, 256)[:, None], high=1.0)[:, 0]
    queries = {
        name: [(session.painter.code_at(point) @ project).tolist() for point in points]
        for name, points in (("likes", look.positives), ("unlikes", look.negatives))
    }
    layer = "text" if look.text and look.layer == "similarity" else look.layer
    return {
        "count": len(session.drawn), "codes": project.shape[1],
        "layers": ["rgb", *layers, "similarity"], "layer": layer, "hide_below": look.opacity,
        "up": start.up.tolist(), "fov": start.fov, "distance": start.distance, "views": views,
        "start": shown.index(start.view), "ramp": to_bytes(ramp).tolist(), **queries,
    }  # fmt: skip


def _page(session: Session, facts: Mapping[str, Any], numbers: str) -> str:
    scene, drawn = session.scene, len(session.drawn)
    name = html.escape(scene.name)
    buttons = "".join(
        f'<button data-layer="{layer}" aria-pressed="false">{_LABELS[layer]}</button>'
        for layer in facts["layers"]
    )
    count = f"{drawn:,}" if drawn == len(scene.gaussians) else (
        f"{drawn:,} of {len(scene.gaussians):,}, those with the largest opacity times area"
    )  # fmt: skip
    rows = {"Gaussians": count, "backbone": scene.source.backbone,
            "features": f"{scene.decoder.in_dim} of {scene.source.dim} channels"}  # fmt: skip
    for key, label, form in (("psnr", "held-out PSNR", "{:.2f} dB"),
                             ("feature_cosine", "held-out feature cosine", "{:.3f}")):  # fmt: skip
        value = scene.metrics.get(key)
        if value is not None and value == value:
            rows[label] = form.format(value)
    if session.look.text:
        rows["words"] = session.look.text
    table = "".join(f"<tr><td>{html.escape(label)}</td><td>{html.escape(value)}</td></tr>"
                    for label, value in rows.items())  # fmt: skip
    # "<" cannot stand in JSON inside a page: a view called </script> would end it.
    data = json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    css, script = (f"\n{(_HERE / file).read_text('utf-8')}" for file in ("page.css", "page.js"))
    policy = _POLICY.format(script=source_hash(script), style=source_hash(css))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} - fit3d</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<canvas id="view" aria-label="the scene; drag to turn, right-drag to shift, wheel to approach"></canvas>
<main>
<h1>{name}</h1>
<div class="layers" role="group" aria-label="Layer">{buttons}</div>
<p id="note">Reading the scene ...</p>
<button id="clear" disabled>Clear</button>
<label>Hide below <input id="least" type="range" min="0" max="1" step="0.01"></label>
<div class="views"><button id="before" aria-label="previous view">&#8249;</button>
<span id="name"></span><button id="after" aria-label="next view">&#8250;</button></div>
<details><summary>About</summary><table>{table}</table>
<p>Drag turns, right-drag shifts, the wheel approaches.</p></details>
</main>
<script type="application/json" id="facts">{data}</script>
<script type="application/octet-stream" id="numbers">{numbers}</script>
<script>{script}</script>
</body>
</html>
"""  # noqa: E501
