"""What the lifting benchmarks start from: frozen geometry, cameras, tokens, training views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import scenes
from benchmarks.options import Setup
from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.cache import TokenCache
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.read import read_capture
from fit3d_cli.geometry.cameras import Cameras, stack_cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.features import view_tokens
from fit3d_cli.progress import ignore
from fit3d_cli.splat.weights import view_token_weights
from fit3d_cli.workspace import Workspace


@dataclass(frozen=True)
class Material:
    """Everything a lift needs but the settings.

    Attributes:
        name: Of the scene.
        gaussians: Frozen geometry.
        cameras: At the size that the backbone saw.
        grid: Token grid ``(h, w)``.
        tokens: ``[h, w, C]`` float16 per view.
        train: Views to learn from.
        heldout: Views to score on.
        real: Whether the tokens are a backbone's, not a stand-in.
        backbone: The backbone, None without a workspace.
    """

    name: str
    gaussians: Gaussians
    cameras: Cameras
    grid: tuple[int, int]
    tokens: list[Tensor]
    train: list[int]
    heldout: list[int]
    real: bool
    backbone: Backbone | None


def from_workspace(workspace: Path, archive: Path) -> Material:
    """The scene of an archive with the backbone's tokens, from the cache if they are there."""
    place, scene = Workspace(workspace), read_archive(archive)
    capture = read_capture(place.capture_dir(scene.name), name=scene.name)
    by_name = {view.name: view for view in capture.views}
    capture = replace(capture, views=tuple(by_name[name] for name in scene.names))
    source = scene.source
    backbone = load_backbone(source.backbone, weights=place.weights_of(source.weights_sha256))
    size = (source.width, source.height)
    tokens = view_tokens(
        capture, backbone, size, cache=TokenCache(place.cache_dir / "tokens"), batch=4,
        device="cpu", on_event=ignore, stage="",
    )  # fmt: skip
    return Material(
        scene.name,
        scene.gaussians,
        stack_cameras([scene.cameras[i].resized(*size) for i in range(len(scene.names))]),
        source.grid,
        tokens,
        scene.views(heldout=False),
        scene.views(heldout=True),
        True,
        backbone,
    )


def stand_in(setup: Setup, views: int, channels: int = 384) -> Material:
    """The scene of a run with tokens made from its own values, a seeded mixing and noise."""
    scene = scenes.load(setup)
    generator = torch.Generator().manual_seed(setup.seed)
    chosen = [int(i) for i in torch.linspace(0, len(scene.cameras) - 1, views)]
    values = scene.features / scene.features.std()
    mixing = torch.randn(setup.dim, channels, generator=generator) / setup.dim**0.5
    tokens = []
    for index in chosen:
        view = scene.view(index)
        camera = (view.viewmat, view.K, view.width, view.height)
        rendered = view_token_weights(scene.gaussians, *camera, *scene.grid).apply(values)
        noise = torch.randn(*scene.grid, channels, generator=generator)
        tokens.append((rendered @ mixing + 0.3 * noise).half())
    return Material(
        scene.origin.get("name", scene.origin["kind"]),
        scene.gaussians,
        scene.cameras[chosen],
        scene.grid,
        tokens,
        list(range(views)),
        [],
        False,
        None,
    )
