"""How one capture becomes a scene: photos, geometry, tokens, features, held-out figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fit3d_cli import __version__, storage
from fit3d_cli.allocator import give_back
from fit3d_cli.backbones.cache import TokenCache
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.base import Capture
from fit3d_cli.capture.read import heldout_mask, view_cameras
from fit3d_cli.errors import CaptureError
from fit3d_cli.geometry.cameras import stack_cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.features import (
    Lifted,
    heldout_features,
    solve_features,
    token_weights,
    view_tokens,
)
from fit3d_cli.lifting.geometry import GeometryFit, heldout_psnr
from fit3d_cli.lifting.paper import lift_by_adam
from fit3d_cli.lifting.start import first_gaussians
from fit3d_cli.lifting.views import load_frames
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.scene import FeatureSource, Scene
from fit3d_cli.settings import LiftSettings
from fit3d_cli.workspace import Workspace

# Raised whenever the same settings would give other bytes; part of every content digest.
ALGORITHM = 2
GEOMETRY_ALGORITHM = 1

# Paths of this machine: digests of the files stand in their place. The rest changes no result.
_OFF_THE_RECORD: dict[str, Any] = {
    "backbone": {"name", "weights", "batch"},
    "geometry": {"ply", "checkpoint_every"},
    "memory": True,
    **dict.fromkeys(("isolate", "retries", "stall"), True),
}


@dataclass(frozen=True)
class Job:
    """One capture to lift.

    Attributes:
        capture: The capture.
        digest: Digest of its content.
        settings: How to lift.
        place: Workspace with the caches.
        backbone: On ``device``.
        device: Where the backbone runs.
        splats: Where Gaussians are splatted and features solved.
        seed: Decides every random draw.
        on_event: Told about progress.
    """

    capture: Capture
    digest: str
    settings: LiftSettings
    place: Workspace
    backbone: Backbone
    device: torch.device
    splats: torch.device
    seed: int
    on_event: OnEvent

    def plan(self) -> str:
        """Digest of everything that decides the scene."""
        return _digest(
            ALGORITHM,
            self.digest,
            # How a source became a capture shows in the capture.
            self.settings.model_dump(mode="json", exclude={**_OFF_THE_RECORD, "source": True}),
            self.backbone.name,
            self.backbone.identity,
            self.seed,
            self._ply(),
        )

    def geometry_plan(self, train: list[int]) -> str:
        """Digest of everything that decides the geometry: no backbone, no feature setting."""
        settings = self.settings.geometry
        return _digest(
            GEOMETRY_ALGORITHM,
            "geometry",
            self.digest,
            train,
            self.seed,
            settings.model_dump(mode="json", exclude=_OFF_THE_RECORD["geometry"]),
            self._ply(),
        )

    def _ply(self) -> str:
        ply = self.settings.geometry.ply
        return storage.sha256_file(Path(ply)) if ply else ""


def prepare(job: Job) -> GeometryFit:
    """The photos and the first Gaussians of a capture, ready to be fitted.

    Raises:
        CaptureError: The capture lacks what the settings ask for.
        ImageError: A photo cannot be read.
    """
    capture, geometry = job.capture, job.settings.geometry
    frames = load_frames(
        capture, geometry.width, job.on_event, stage=f"{capture.name}: photos",
        budget=job.settings.memory << 20, folder=job.place.cache_dir,
    )  # fmt: skip
    held = heldout_mask([view.name for view in capture.views], job.settings.heldout, job.seed)
    train = (~held).nonzero()[:, 0].tolist()
    start = first_gaussians(
        capture, frames, train, geometry, job.seed, job.place.cache_dir / "points", job.digest,
        job.on_event,
    )  # fmt: skip
    return GeometryFit(start, frames, train, geometry, job.seed, job.splats)


def make_scene(job: Job, fit: GeometryFit) -> Scene:
    """Fit the geometry, solve the features, measure both on the held-out views.

    Raises:
        CaptureError: Nothing was left after fitting, or a number is not finite.
        StorageError: A cache could not be written.
    """
    capture, settings, backbone = job.capture, job.settings, job.backbone
    name = capture.name
    names = tuple(view.name for view in capture.views)
    held = heldout_mask(names, settings.heldout, job.seed)
    train, heldout = fit.train, held.nonzero()[:, 0].tolist()
    gaussians, metrics = _fit(job, fit, heldout)
    fit.free()
    give_back()

    cameras = view_cameras(capture)
    first = capture.views[0]
    size = backbone.input_size(first.width, first.height, settings.backbone.width)
    # The photos are gone; weights, tokens and codes share what they had.
    memory, folder = settings.memory << 20, job.place.cache_dir
    tokens = view_tokens(
        capture, backbone, size, cache=TokenCache(job.place.cache_dir / "tokens"),
        batch=settings.backbone.batch, device=job.device, on_event=job.on_event,
        stage=f"{name}: {backbone.name} tokens", wanted=job.splats, budget=memory // 4,
    )  # fmt: skip
    seen = stack_cameras([cameras[i].resized(*size) for i in range(len(cameras))])
    grid = (size[1] // backbone.patch_size, size[0] // backbone.patch_size)
    placed = gaussians.to(job.splats)
    by_adam = settings.features.solver == "paper"
    weights = token_weights(
        placed, seen, grid, job.on_event, f"{name}: blending weights",
        views=heldout if by_adam else None, apart=heldout,
        budget=memory // 2, folder=folder,
    )  # fmt: skip
    give_back()
    stage = f"{name}: features"
    if by_adam:
        lifted = lift_by_adam(
            placed, seen, tokens, train, settings.features, job.seed, job.on_event, stage,
            budget=memory // 2,
        )  # fmt: skip
    else:
        lifted = solve_features(
            weights, tokens, train, settings.features, job.on_event, stage,
            budget=memory // 4, folder=folder,
        )  # fmt: skip
    _require_finite(lifted, stage)
    metrics["explained_variance"] = lifted.basis.explained
    if lifted.choice is not None:
        metrics |= lifted.choice.figures()
    if heldout:
        metrics |= heldout_features(lifted, weights, tokens, seen, heldout, train)
    return Scene(
        name=name,
        gaussians=gaussians,
        features=lifted.features.cpu(),
        decoder=lifted.decoder.to("cpu"),
        source=FeatureSource(
            backbone.name, backbone.weights_sha256, backbone.dim, backbone.patch_size, *size
        ),
        cameras=cameras,
        names=names,
        heldout=held,
        capture_digest=job.digest,
        metric=capture.metric,
        metrics={key: round(value, 6) for key, value in metrics.items()},
        provenance={
            "fit3d": __version__,
            "plan": job.plan(),
            "seed": job.seed,
            "reader": capture.reader,
            "dropped": dict(capture.dropped),
            "notes": list(capture.notes),
            "settings": recorded(settings),
        },
    )


def _require_finite(lifted: Lifted, where: str) -> None:
    solved = (lifted.features, lifted.decoder.weight, lifted.decoder.bias)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in solved):
        raise CaptureError(
            "the solved features are not finite numbers",
            where=where,
            hint="try another --set lift.features.solver, or a larger lift.features.ridge",
        )


def _fit(job: Job, fit: GeometryFit, heldout: list[int]) -> tuple[Gaussians, dict[str, float]]:
    """Geometry of a capture and its held-out figures."""
    name = job.capture.name
    state = job.place.cache_dir / "geometry" / f"{job.geometry_plan(fit.train)}.safetensors"
    gaussians = fit.run(job.on_event, f"{name}: geometry", state)
    if len(gaussians) == 0:
        raise CaptureError(
            "every Gaussian vanished while fitting",
            where=job.capture.root,
            hint="check the poses and the photos; fewer steps: --set lift.geometry.iterations=300",
        )
    if not heldout:
        return gaussians, {}
    job.on_event(Progress(f"{name}: held-out views", 0, 1))
    return gaussians, heldout_psnr(gaussians, fit.frames, heldout, job.splats)


def recorded(settings: LiftSettings) -> dict[str, Any]:
    """The settings that an archive remembers: those that differ from the defaults."""
    return settings.model_dump(mode="json", exclude_defaults=True, exclude=_OFF_THE_RECORD)


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
