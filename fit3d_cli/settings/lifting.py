"""Settings of ``fit3d lift``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fit3d_cli.settings.base import BackboneSettings, Section


class LiftBackboneSettings(BackboneSettings):
    """The backbone of ``lift``, which has no scene to ask."""

    name: str = Field(
        "dinov2-small", description="registered backbone, timm model name, or tuned-model directory"
    )


class GeometrySettings(Section):
    """Fitting Gaussians to the photos (RGB and depth; features never move geometry)."""

    width: int = Field(320, gt=15, le=8192, description="width in pixels of the fitted photos")
    iterations: int = Field(1500, ge=0, description="optimisation steps, one view each")
    max_gaussians: int = Field(60_000, gt=0, description="budget of Gaussians")
    init: Literal["auto", "depth", "points", "triangulate", "random", "ply"] = Field(
        "auto", description="where the first Gaussians come from"
    )
    ply: str = Field("", description="Gaussians to start from (init = ply): .ply, .spz or .splat")
    init_gaussians: int = Field(40_000, gt=0, description="Gaussians at the start, at most")
    sh_degree: int = Field(1, ge=0, le=3, description="degree of the view-dependent colour")
    ssim_weight: float = Field(0.2, ge=0, le=1, description="weight of 1 - SSIM against L1 (3DGS)")
    depth_weight: float = Field(
        0.2, ge=0, description="weight of the depth L1, relative to the scene's median depth"
    )
    lr_means: float = Field(1.6e-4, gt=0, description="step of the means, times scene extent")
    lr_scale: float = Field(1.0, gt=0, description="multiplies every geometry learning rate")
    densify: bool = Field(True, description="split, clone and prune (gsplat DefaultStrategy)")
    densify_start: int = Field(200, ge=0, description="first step that may densify")
    densify_stop: float = Field(0.6, ge=0, le=1, description="fraction of steps that densify")
    densify_every: int = Field(100, gt=0, description="steps between densifications")
    grow_grad2d: float = Field(2e-4, gt=0, description="screen gradient above which to grow")
    checkpoint_every: int = Field(500, gt=0, description="steps between checkpoints")


class FeatureSettings(Section):
    """Solving the features on frozen geometry."""

    dim: int = Field(64, gt=0, le=4096, description="channels stored per Gaussian")
    solver: Literal["average", "cg", "paper"] = Field(
        "cg", description="weighted average, conjugate gradients, or FiT3D's joint Adam schedule"
    )
    validation: float = Field(
        0.125,
        ge=0,
        le=0.5,
        description="share of the training views that chooses CG steps and pull; 0 = as set below",
    )
    cg_iterations: int = Field(
        8, ge=0, le=200, description="CG steps after the weighted average (validation = 0)"
    )
    cg_lambda: float = Field(
        0.03,
        ge=0,
        description="pull to the weighted average, relative to the preconditioner (validation = 0)",
    )
    preconditioner: Literal["column", "row-sum", "jacobi"] = Field(
        "column", description="diagonal that scales CG and its pull"
    )
    robust: Literal["none", "huber"] = Field(
        "none", description="huber: solve again, trusting tokens less that disagree with the others"
    )
    robust_cut: float = Field(
        1.5, gt=0, description="residual, in medians, above which a token loses trust"
    )
    robust_rounds: int = Field(2, ge=1, le=10, description="reweighted solves of robust = huber")
    ridge: float = Field(0.1, gt=0, description="ridge of the decoder, relative")
    paper_iterations: int = Field(30_000, gt=0, description="Adam steps of solver = paper")
    paper_lr: float = Field(6.25e-5, gt=0, description="Adam step of solver = paper")


class SourceSettings(Section):
    """Videos, containers and photos without poses, which become a capture first."""

    frames: int = Field(
        0, ge=0, description="frames to take from a video or container at most; 0 = all that differ"
    )
    matcher: Literal["auto", "exhaustive", "sequential"] = Field(
        "auto", description="which photos are matched with which to find their poses"
    )
    camera: Literal["auto", "single", "per-image"] = Field(
        "auto", description="which photos share a lens; auto = those of one size and focal length"
    )
    max_side: int = Field(
        1600, ge=64, le=16384, description="longest side of the photos that are matched, pixels"
    )
    min_registered: float = Field(
        0.5, ge=0, le=1, description="least share of the photos that must get a pose"
    )


class LiftSettings(Section):
    """``fit3d lift``."""

    backbone: LiftBackboneSettings = LiftBackboneSettings()
    geometry: GeometrySettings = GeometrySettings()
    features: FeatureSettings = FeatureSettings()
    source: SourceSettings = SourceSettings()
    memory: int = Field(
        512, ge=0, description="MiB of photos, tokens and weights kept in memory; the rest goes to"
        " a temporary file"
    )  # fmt: skip
    reader: str = Field("", description="capture reader; empty detects the layout")
    heldout: float = Field(
        0.1, ge=0, le=0.5, description="fraction of views held out of fitting and lifting"
    )
    max_views: int = Field(
        0, ge=0, description="use at most this many evenly spread views; 0 = all"
    )
    isolate: Literal["auto", "always", "never"] = Field(
        "auto",
        description="lift in a process of its own, which may crash; auto = if there are several",
    )
    retries: int = Field(
        1, ge=0, le=2, description="fresh tries of a scan that crashed, hung or lacked memory"
    )
    stall: float = Field(
        3600, ge=0, description="seconds without any progress after which a scan hangs; 0 = never"
    )
