"""Fitting Gaussians to photos: RGB, and depth where the capture has it.

The loop of 3D Gaussian Splatting (Kerbl et al. 2023) with gsplat's densification, shortened to
what a CPU can afford. It is a pure function of its inputs: the view order and every random draw
derive from the seed and the step, so a run that resumes from a checkpoint ends with the same
bits as one that was never interrupted.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli import storage
from fit3d_cli.allocator import settle
from fit3d_cli.device import seeded
from fit3d_cli.errors import ArchiveError, CaptureError
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.lifting.losses import depth_loss, mean_ssim, photometric_loss, psnr
from fit3d_cli.lifting.views import Frames
from fit3d_cli.progress import OnEvent, Progress
from fit3d_cli.settings import GeometrySettings
from fit3d_cli.splat.densify import Densifier
from fit3d_cli.splat.rasterize import render_gaussians
from fit3d_cli.tensorfile import read_sealed, write_sealed

_log = logging.getLogger(__name__)

# Learning rates of 3DGS; means are relative to the scene extent and come from the settings.
_RATES = {"scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
_MEANS_DECAY = 0.01  # the means' rate falls to this fraction, exponentially
_PRUNE_OPACITY = 0.005


class GeometryFit:
    """State of one fit: parameters, Adam moments, densification statistics.

    Args:
        start: First Gaussians.
        frames: Loaded views.
        train: Indices of the training views.
        settings: How to fit.
        seed: Decides view order and split positions.
        device: Where the Gaussians are while they are fitted; photos and results are on the CPU.
    """

    def __init__(
        self,
        start: Gaussians,
        frames: Frames,
        train: list[int],
        settings: GeometrySettings,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        start, self.device = start.to(device), torch.device(device)
        self.frames, self.train, self.settings, self.seed = frames, train, settings, seed
        self.step = 0
        self.extent = frames.cameras[train].extent
        self.depth_scale = _median_depth(frames, train)
        values = {
            "means": start.means.clone(),
            "scales": start.scales.log(),
            "quats": start.quats.clone(),
            "opacities": start.opacities.logit(eps=1e-6),
            "sh0": start.sh[:, :1].clone(),
            "shN": start.sh[:, 1:].clone(),
        }
        self.params = {key: torch.nn.Parameter(value) for key, value in values.items()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            key: torch.optim.Adam([value], lr=self._rate(key), eps=1e-15, fused=True)
            for key, value in self.params.items()
        }
        self.densifier = Densifier(
            scene_extent=self.extent,
            max_gaussians=settings.max_gaussians,
            start=settings.densify_start,
            stop=int(settings.densify_stop * settings.iterations) if settings.densify else 0,
            every=settings.densify_every,
            grow_grad2d=settings.grow_grad2d,
        )

    def _rate(self, key: str) -> float:
        """The present learning rate of a parameter."""
        if key == "means":
            progress = self.step / max(1, self.settings.iterations)
            rate = self.settings.lr_means * self.extent * float(_MEANS_DECAY**progress)
        else:
            rate = _RATES[key]
        return rate * self.settings.lr_scale

    def run(self, on_event: OnEvent, stage: str, checkpoint: Path | None) -> Gaussians:
        """Optimise to the last step, from the checkpoint if there is one.

        Args:
            on_event: Told about the steps.
            stage: Name of the stage in events.
            checkpoint: Where the state is kept; None keeps none.

        Returns:
            The fitted Gaussians.

        Raises:
            CaptureError: The loss is not a finite number any more.
        """
        if checkpoint is not None and os.path.lexists(checkpoint):
            self._load(checkpoint)
        total = self.settings.iterations
        while self.step < total:
            loss = self._advance()
            if not math.isfinite(loss):  # before it gets into a checkpoint
                raise CaptureError(
                    f"the fit diverged: its loss is {loss} at step {self.step} of {total}",
                    where=stage,
                    hint="check poses, depth and scale, or --set lift.geometry.lr_scale=0.3",
                )
            if self.step % 10 == 0 or self.step == total:
                note = f"{len(self.params['means'])} Gaussians, loss {loss:.3f}"
                on_event(Progress(stage, self.step, total, note))
            due = self.step % self.settings.checkpoint_every == 0 or self.step == total
            if checkpoint is not None and due:
                self._save(checkpoint)
        return self.gaussians()

    def free(self) -> None:
        """Let go of the photos and the optimiser; nothing else may be asked of the fit after it."""
        del self.frames, self.params, self.optimizers, self.densifier

    def gaussians(self) -> Gaussians:
        """The present Gaussians, on the CPU, without those that are transparent or not finite."""
        gaussians = self._activated()
        # What was not trained is someone's own: row for row, it keeps its order and its number.
        keep = gaussians.opacities > (_PRUNE_OPACITY if self.settings.iterations else -1.0)
        for values in (gaussians.means, gaussians.scales, gaussians.quats):
            keep &= torch.isfinite(values).all(-1)
        kept = gaussians.select(keep).to("cpu")
        return Gaussians(
            kept.means.detach(),
            torch.nn.functional.normalize(kept.quats.detach(), dim=-1),
            kept.scales.detach(),
            kept.opacities.detach(),
            kept.sh.detach(),
        )

    def _activated(self) -> Gaussians:
        """The parameters as Gaussians, part of the autograd graph."""
        return Gaussians(
            self.params["means"],
            self.params["quats"],
            self.params["scales"].exp(),
            self.params["opacities"].sigmoid(),
            torch.cat([self.params["sh0"], self.params["shN"]], dim=1),
        )

    def _advance(self) -> float:
        """One step on one view; returns the loss."""
        index = self._view(self.step)
        camera = self.frames.cameras[index]
        width, height = self.frames.size(index)
        photo = self.frames.image(index, self.device)
        mask, depth = self.frames.masks[index].to(self.device), self.frames.depths[index]
        degrees = self.settings.sh_degree
        ramp = max(1, self.settings.iterations // 10)
        for key, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self._rate(key)
        rendering = render_gaussians(
            self._activated(),
            camera.viewmats[0],
            camera.Ks[0],
            width,
            height,
            sh_degree=min(degrees, self.step // ramp),
        )
        loss = photometric_loss(rendering.rgb, photo, mask, self.settings.ssim_weight)
        if depth is not None and self.settings.depth_weight > 0:
            usable = depth.to(self.device) * mask
            loss = loss + self.settings.depth_weight * depth_loss(
                rendering.weighted_depth, rendering.alphas, usable, self.depth_scale
            )
        self.densifier.before_backward(rendering)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # Splits draw from torch's global generator: seeding it per step makes them repeatable.
        with seeded(self.seed * 1_000_003 + self.step):
            self.densifier.after_backward(
                self.params, self.optimizers, self.step, rendering, width, height
            )
        self.step += 1
        return float(loss.detach())

    def _view(self, step: int) -> int:
        """Every epoch visits each training view once, in a seeded order."""
        epoch, position = divmod(step, len(self.train))
        generator = torch.Generator().manual_seed(self.seed * 7919 + epoch)
        order = torch.randperm(len(self.train), generator=generator)
        return self.train[int(order[position])]

    def _save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for key, value in self.params.items():
            tensors[f"p.{key}"] = value.detach()
            state = self.optimizers[key].state[value]
            if state:
                tensors[f"m.{key}"] = state["exp_avg"]
                tensors[f"v.{key}"] = state["exp_avg_sq"]
        tensors |= {f"d.{key}": value for key, value in self.densifier.state().items()}
        tensors = {key: value.cpu() for key, value in tensors.items()}
        told = {"plan": path.stem, "step": str(self.step), "tensors": str(len(tensors))}
        write_sealed(path, tensors, told)

    def _load(self, path: Path) -> None:
        """Take up a checkpoint; a damaged one is set aside, because it can be made again."""
        try:
            tensors, metadata = read_sealed(path)
            if metadata.get("plan") != path.stem:
                raise ArchiveError("a checkpoint of other geometry", where=path)
            if metadata.get("tensors") != str(len(tensors)):
                raise ArchiveError("lacks some of its tensors", where=path)
            step = int(metadata["step"])
            tensors = {key: value.to(self.device) for key, value in tensors.items()}
            params = {key: torch.nn.Parameter(tensors[f"p.{key}"]) for key in self.params}
        except (ArchiveError, KeyError, ValueError) as error:
            what = error.what if isinstance(error, ArchiveError) else f"lacks {error}"
            storage.set_aside(path)
            hint = "set aside; the geometry is fitted again"
            _log.warning("%s", ArchiveError(what, where=path, hint=hint))
            return
        self.step = step
        for key, value in params.items():
            self.params[key] = value
            optimizer = self.optimizers[key]
            optimizer.state.clear()
            optimizer.param_groups[0]["params"] = [value]
            if f"m.{key}" in tensors:
                optimizer.state[value] = {
                    "step": torch.tensor(float(step), device=self.device),
                    "exp_avg": tensors[f"m.{key}"],
                    "exp_avg_sq": tensors[f"v.{key}"],
                }
        self.densifier.load_state(
            {key[2:]: value for key, value in tensors.items() if key.startswith("d.")}
        )


def heldout_psnr(
    gaussians: Gaussians, frames: Frames, views: list[int], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """PSNR (dB) and SSIM over the given views, each view counting once.

    Args:
        gaussians: What to render.
        frames: Photos to compare with.
        views: Indices, usually the held-out ones.
        device: Where to render.
    """
    gaussians = gaussians.to(device)
    ratios, similarities = [], []
    for index in views:
        camera = frames.cameras[index]
        with torch.no_grad():
            rendering = render_gaussians(
                gaussians, camera.viewmats[0], camera.Ks[0], *frames.size(index)
            )
        photo, mask = frames.image(index, device), frames.masks[index].to(device)
        ratios.append(psnr(rendering.rgb, photo, mask))
        similarities.append(float(mean_ssim(rendering.rgb.clamp(0, 1), photo, mask)))
        settle()
    count = max(1, len(views))
    return {"psnr": sum(ratios) / count, "ssim": sum(similarities) / count}


def _median_depth(frames: Frames, train: list[int]) -> float:
    medians = []
    for index in train:
        depth = frames.depths[index]
        if depth is None:
            continue
        values = depth[(depth > 0) & frames.masks[index]]
        if len(values):
            medians.append(float(values.median()))
    return sorted(medians)[len(medians) // 2] if medians else 1.0
