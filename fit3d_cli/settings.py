"""Settings: one section per verb, defaults here and nowhere else.

Every description is the documentation that ``--dry-run`` prints. Settings stop at the stage
layer: everything below takes plain arguments.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class ModelSettings(Section):
    """Which 2D model."""

    name: str = Field(
        "",
        description="registered backbone, timm model name, or tuned-model directory; empty = the "
        "one that lifted the scenes, or that the tuned model started from",
    )
    weights: str = Field("", description="local .safetensors file instead of the hub's weights")


class BackboneSettings(ModelSettings):
    """Which 2D model, and the size of the pictures that it sees."""

    width: int = Field(
        448,
        gt=0,
        le=8192,
        description="width in pixels of the pictures the backbone sees; becomes a patch multiple",
    )
    batch: int = Field(4, gt=0, description="pictures per backbone forward pass")


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
    ply: str = Field("", description="3DGS .ply to start from (init = ply)")
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
    memory: int = Field(
        256, ge=0, description="MiB of blending weights kept in memory; the rest goes to a file"
    )
    ridge: float = Field(0.1, gt=0, description="ridge of the decoder, relative")
    paper_iterations: int = Field(30_000, gt=0, description="Adam steps of solver = paper")
    paper_lr: float = Field(6.25e-5, gt=0, description="Adam step of solver = paper")


class LiftSettings(Section):
    """``fit3d lift``."""

    backbone: LiftBackboneSettings = LiftBackboneSettings()
    geometry: GeometrySettings = GeometrySettings()
    features: FeatureSettings = FeatureSettings()
    reader: str = Field("", description="capture reader; empty detects the layout")
    heldout: float = Field(
        0.1, ge=0, le=0.5, description="fraction of views held out of fitting and lifting"
    )
    max_views: int = Field(
        0, ge=0, description="use at most this many evenly spread views; 0 = all"
    )


class RenderSettings(Section):
    """``fit3d render``."""

    what: tuple[Literal["rgb", "depth", "alpha", "features", "pca"], ...] = Field(
        ("rgb", "depth", "pca"), description="what to render"
    )
    views: str = Field(
        "held-out", description="held-out, all, orbit, or comma-separated view names"
    )
    width: int = Field(640, gt=0, le=8192, description="width of the pictures in pixels")
    frames: int = Field(60, gt=1, description="frames of an orbit")
    fps: int = Field(15, gt=0, description="frames per second of an orbit")
    video: Literal["mp4", "gif"] = Field("mp4", description="container of an orbit")


class FinetuneSettings(Section):
    """``fit3d finetune``."""

    name: str = Field(
        "tuned",
        pattern=r"^[^./\\\x00][^/\\\x00]*$",  # it must not lead out of the workspace
        description="name of the model directory in <workspace>/models",
    )
    backbone: ModelSettings = ModelSettings()
    epochs: int = Field(1, gt=0, description="passes over all training views")
    lr: float = Field(1e-5, gt=0, description="AdamW step (FiT3D: 1e-5)")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW weight decay (FiT3D: 1e-4)")
    clip: float = Field(0.1, gt=0, description="largest total gradient norm (FiT3D: 0.1)")
    batch: int = Field(2, gt=0, description="views per step (FiT3D: 2)")
    flip: bool = Field(True, description="mirror half of the samples")
    anchor: float = Field(
        0.0,
        ge=0,
        description="weight of the L1 to the frozen base's tokens (ConDense's fidelity)",
    )
    min_alpha: float = Field(
        0.5, ge=0, le=1, description="ignore tokens that the scene covers less"
    )
    checkpoint_every: int = Field(50, gt=0, description="steps between checkpoints")


class ProbeSettings(Section):
    """``fit3d probe``."""

    backbone: BackboneSettings = BackboneSettings()
    tuned: str = Field("", description="tuned model directory; empty = newest in the workspace")
    models: tuple[Literal["base", "tuned", "concat"], ...] = Field(
        ("base", "tuned", "concat"), description="which features to probe"
    )
    data: str = Field("", description="dataset directory; empty = <workspace>/datasets/<dataset>")
    steps: int = Field(1000, gt=0, description="steps of the linear head")
    lr: float = Field(1e-3, gt=0, description="AdamW step of the head")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW weight decay of the head")
    batch: int = Field(16, gt=0, description="images per head step")
    bins: int = Field(256, gt=1, description="depth bins")
    min_depth: float = Field(0.1, gt=0, description="nearest depth that is scored, metres")
    max_depth: float = Field(10.0, gt=0, description="farthest depth that is scored, metres")
    max_images: int = Field(0, ge=0, description="use at most this many images per split; 0 = all")


class CompareSettings(Section):
    """``fit3d compare``."""

    backbone: BackboneSettings = BackboneSettings()
    tuned: str = Field("", description="tuned model directory; empty = newest in the workspace")
    images: int = Field(6, gt=0, description="pictures on the page")
    clusters: int = Field(6, gt=1, le=64, description="k of k-means")


class VizSettings(Section):
    """``fit3d viz``."""

    backbone: BackboneSettings = BackboneSettings()
    tuned: str = Field("", description="tuned model directory to show beside the base")
    method: Literal["pca", "kmeans"] = Field("pca", description="how features become colours")
    clusters: int = Field(6, gt=1, le=64, description="k of k-means")


class Settings(Section):
    """All sections, as a profile or ``--set section.key=value`` addresses them."""

    lift: LiftSettings = LiftSettings()
    render: RenderSettings = RenderSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    probe: ProbeSettings = ProbeSettings()
    compare: CompareSettings = CompareSettings()
    viz: VizSettings = VizSettings()
