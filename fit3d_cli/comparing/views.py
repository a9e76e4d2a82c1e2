"""Held-out views of scenes: rendered beside their photos, features beside both models' tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fit3d_cli import viz
from fit3d_cli.archive import read_archive
from fit3d_cli.archive.photos import scene_capture
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import View
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.errors import Fit3dError
from fit3d_cli.pages.html import Markup, Node, el, name
from fit3d_cli.pages.metrics import number
from fit3d_cli.pages.pictures import Shown, figure
from fit3d_cli.pages.tables import row, table
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.rendering import render_maps
from fit3d_cli.scene import Scene
from fit3d_cli.splat.weights import view_token_weights
from fit3d_cli.workspace import Workspace

# Views that are rendered, of which scenes, and how many are shown as pictures.
MAX_SCENES, MAX_VIEWS, SHOWN = 8, 16, 6
_WIDTH, _SIDE = 448, 320


@dataclass(frozen=True)
class ViewScore:
    """One held-out view.

    Attributes:
        scene: Its name.
        view: Its name.
        psnr: Of the rendered colour, dB at ``_WIDTH`` pixels, over the photo's used pixels.
        base: Mean cosine of the scene's decoded features to the base's tokens; None where the
            scene was lifted with other weights.
        tuned: The same to the tuned model's tokens; None where they do not correspond.
        pictures: Photo, rendering and error; not part of what programs read.
    """

    scene: str
    view: str
    psnr: float
    base: float | None
    tuned: float | None
    pictures: tuple[Shown, ...] = field(default=(), compare=False, repr=False)

    def figures(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "scene": self.scene, "view": self.view, "psnr": self.psnr,
            "cosine_base": self.base, "cosine_tuned": self.tuned,
        }  # fmt: skip


def heldout_views(
    archives: Sequence[Path],
    base: Backbone,
    tuned: Backbone,
    place: Workspace,
    *,
    captures: Path | None,
    on_event: OnEvent,
) -> tuple[list[ViewScore], tuple[str, ...]]:
    """Score held-out views of scenes, evenly spread, worst PSNR first.

    Args:
        archives: Scenes; those beyond ``MAX_SCENES`` are left out.
        base: The first model.
        tuned: The second model.
        place: Remembers where the captures lie.
        captures: Where they lie now.
        on_event: Told about each view.

    Returns:
        The views, those that are shown with pictures; and why a scene has none.
    """
    found: list[ViewScore] = []
    remarks: list[str] = []
    chosen = list(archives)[:MAX_SCENES]
    each = max(1, MAX_VIEWS // max(1, len(chosen)))
    for number_, path in enumerate(chosen):
        on_event(Progress("held-out views", number_, len(chosen), path.stem))
        try:
            scene = read_archive(path)
            views = scene_capture(scene, place, () if captures is None else (captures,)).views
            found += [
                _score(scene, index, views[index], base, tuned) for index in _heldout(scene, each)
            ]
        except Fit3dError as error:
            remarks.append(f"No held-out view of scene {path.stem}: {error.what}.")
    on_event(Progress("held-out views", len(chosen), len(chosen)))
    if len(archives) > len(chosen):
        remarks.append(f"Held-out views of the first {len(chosen)} of {len(archives)} scenes.")
    ranked = sorted(found, key=lambda one: (one.psnr, one.scene, one.view))
    return ranked, tuple(remarks)


def view_cards(views: Sequence[ViewScore]) -> list[Markup]:
    """A table of all views and pictures of the worst ones."""
    if not views:
        return []
    cosines = any(one.base is not None for one in views)
    rows = []
    for one in views:
        cells: list[Node] = [number(one.psnr)]
        if cosines:
            cells += [_cosine(one.base), _cosine(one.tuned)]
        rows.append(row(name(f"{one.scene}/{one.view}"), cells))
    head = ["View", "PSNR ↑", *(["Cosine to base", "Cosine to tuned"] if cosines else [])]
    told = (
        f"Views that no Gaussian was fitted to, at {_WIDTH} pixels."
        + (" Cosine: the scene's features against a model's tokens." if cosines else "")
    )  # fmt: skip
    cards = [
        el(
            "article",
            el("p", name(f"{one.scene}/{one.view}"), class_="name"),
            el("p", el("span", "PSNR ", el("b", number(one.psnr)), " dB"), class_="values small"),
            el(
                "div",
                [figure(picture, f"{one.scene}/{one.view}", _SIDE) for picture in one.pictures],
                class_="strip wide",
            ),
            class_="item",
        )
        for one in views[:SHOWN]
    ]
    full = table(head, rows)
    return [
        el("p", told, class_="small soft"),
        el("div", cards, class_="items"),
        el("details", el("summary", f"All {len(views)} views"), full)
        if len(views) > SHOWN else full,
    ]  # fmt: skip


def _cosine(value: float | None) -> str:
    return "–" if value is None else number(value)


def _heldout(scene: Scene, count: int) -> list[int]:
    known = scene.views(heldout=True)
    if len(known) <= count:
        return known
    return [known[(2 * i + 1) * len(known) // (2 * count)] for i in range(count)]


@torch.no_grad()
def _score(scene: Scene, index: int, view: View, base: Backbone, tuned: Backbone) -> ViewScore:
    height = max(1, round(view.height * _WIDTH / view.width))
    frame = load_frame(view, _WIDTH, height, depth=False)
    rendered = render_maps(scene, frame.camera, features=False).rgb
    error = (rendered - frame.image).square().mean(-1)
    used = error[frame.mask]
    psnr = float(-10 * torch.log10(used.mean().clamp_min(1e-12))) if used.numel() else 0.0
    pictures = (
        Shown("photo", viz.to_uint8(frame.image), photo=True),
        Shown("rendered", viz.to_uint8(rendered), photo=True),
        # One scale for all views: an error of a quarter of the range is as bright as it gets.
        Shown("error", viz.to_uint8(viz.error_to_rgb(error.sqrt(), mask=frame.mask, high=0.25)),
              photo=True),
    )  # fmt: skip
    cosines = _cosines(scene, index, view, base, tuned)
    return ViewScore(scene.name, view.name, psnr, *cosines, pictures)


def _cosines(
    scene: Scene, index: int, view: View, base: Backbone, tuned: Backbone
) -> tuple[float | None, float | None]:
    """Of the scene's features to each model's tokens, at the size that lifted it."""
    source = scene.source
    if source.weights_sha256 != base.weights_sha256:
        return None, None
    photo = load_frame(view, source.width, source.height, depth=False).image
    grid = (source.height // source.patch_size, source.width // source.patch_size)
    camera = scene.cameras[index].resized(source.width, source.height)
    weights = view_token_weights(
        scene.gaussians, camera.viewmats[0], camera.Ks[0], source.width, source.height, *grid
    )
    lifted = scene.decoder(weights.apply(scene.features)[None].float().cpu())[0]
    return tuple(_agreement(lifted, photo, model) for model in (base, tuned))  # type: ignore[return-value]


def _agreement(lifted: Tensor, photo: Tensor, model: Backbone) -> float | None:
    images = photo.permute(2, 0, 1)[None].to(next(model.model.parameters()).device)
    tokens = model.tokens(images)[0].float().cpu()
    if tokens.shape != lifted.shape:
        return None
    return float(torch.nn.functional.cosine_similarity(lifted, tokens, dim=-1).mean())
