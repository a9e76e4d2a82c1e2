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


class ObjectiveSettings(Section):
    """What is minimised: a weight per term, 0 = off (``fit3d_cli/finetuning/objectives``)."""

    l1: float = Field(1.0, ge=0, description="L1 to the lifted tokens (FiT3D)")
    cosine: float = Field(0.0, ge=0, description="1 - cosine to the lifted tokens (Concerto, SnD)")
    anchor: float = Field(
        0.0, ge=0, description="L1 to the frozen base's tokens (ConDense's fidelity)"
    )
    class_anchor: float = Field(
        0.0, ge=0, description="L1 to the frozen base's class token, which nothing else holds"
    )
    norm_angle: float = Field(
        0.0, ge=0, description="norm ratio and angle to the frozen base's tokens (MVFM)"
    )
    gram: float = Field(
        0.0, ge=0, description="similarities between a picture's tokens as in the base (DINOv3)"
    )
    smooth_ap: float = Field(
        0.0, ge=0, description="ranking of 3D correspondences (3DCorrEnhance's SmoothAP)"
    )
    info_nce: float = Field(0.0, ge=0, description="contrast of 3D correspondences (InfoNCE)")
    location: float = Field(
        0.0, ge=0, description="soft-argmax location of 3D correspondences (MVFM)"
    )
    temperature: float = Field(0.05, gt=0, description="softmax temperature of info_nce")


class TrainableSettings(Section):
    """What is trained."""

    part: Literal["full", "lora", "adapter", "swin"] = Field(
        "full",
        description="all weights, low-rank updates, a 3x3 convolution that starts as the identity,"
        " or FiT3D's one Swin block; the last two on the frozen backbone",
    )
    rank: int = Field(8, gt=0, le=1024, description="rank of part = lora")
    blocks: int = Field(0, ge=0, description="last blocks that part = lora updates; 0 = all")
    layers: Literal["qv", "all"] = Field(
        "qv", description="part = lora updates queries and values, or every linear layer of a block"
    )
    keep_norm: bool = Field(
        True, description="part = lora keeps the length of every weight row (Fin3R)"
    )


class TargetSettings(Section):
    """What the tokens are pulled to."""

    source: Literal["archive", "relifted", "denoised"] = Field(
        "archive",
        description="the archive's features; tokens of a teacher averaged into its Gaussians; or,"
        " a control without geometry, the base's tokens averaged over shifts and flips",
    )
    relift_every: int = Field(
        0, ge=0, description="steps between lifts of the EMA teacher (relifted); 0 = only the base"
    )
    teacher_ema: float = Field(
        0.99, ge=0, lt=1, description="decay per step of the teacher's weights (relifted)"
    )
    upsample: int = Field(
        1, ge=1, le=4, description="refine teacher tokens by the photo before lifting, times"
    )
    novel_views: int = Field(
        0, ge=0, description="rendered views between the photos, per scene, as further samples"
    )
    shifts: int = Field(8, gt=0, le=64, description="shifted copies of source = denoised")


class PairSettings(Section):
    """Correspondences between two views, for smooth_ap, info_nce and location."""

    depth: Literal["auto", "capture", "rendered"] = Field(
        "auto", description="whose depth makes them; auto = the capture's where it has any"
    )
    points: int = Field(256, ge=8, le=4096, description="correspondences per pair of views")
    min_overlap: float = Field(
        0.2, gt=0, le=1, description="least share of a view that its partner sees"
    )
    max_angle: float = Field(
        120.0, gt=0, le=180, description="largest rotation between partners, degrees"
    )
    tolerance: float = Field(
        0.05, gt=0, description="relative depth difference above which a point counts as hidden"
    )


class FinetuneSettings(Section):
    """``fit3d finetune``."""

    name: str = Field(
        "tuned",
        pattern=r"^[^./\\\x00][^/\\\x00]*$",  # it must not lead out of the workspace
        description="name of the model directory in <workspace>/models",
    )
    backbone: ModelSettings = ModelSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()
    train: TrainableSettings = TrainableSettings()
    targets: TargetSettings = TargetSettings()
    pairs: PairSettings = PairSettings()
    epochs: int = Field(1, gt=0, description="passes over all training views")
    max_steps: int = Field(0, ge=0, description="stop after this many steps; 0 = all epochs")
    lr: float = Field(1e-5, gt=0, description="AdamW step (FiT3D: 1e-5)")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="how the step size goes on after the warm-up"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of steps over which it rises")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW weight decay (FiT3D: 1e-4)")
    clip: float = Field(0.1, gt=0, description="largest total gradient norm (FiT3D: 0.1)")
    batch: int = Field(2, gt=0, description="views per step over all processes (FiT3D: 2)")
    micro_batch: int = Field(
        0, ge=0, description="views at once in memory, gradients add up; 0 = the whole batch"
    )
    flip: bool = Field(True, description="mirror half of the samples")
    jitter: float = Field(
        0.0, ge=0, le=1, description="change of brightness, contrast and colour of the input"
    )
    min_alpha: float = Field(
        0.5, ge=0, le=1, description="ignore tokens that the scene covers less"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights that are kept; 0 = the last"
    )
    interpolate: float = Field(
        1.0, ge=0, le=1, description="what is kept: base + this times (tuned - base)"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; auto = bfloat16 on CUDA"
    )
    checkpoint_every: int = Field(50, gt=0, description="steps between checkpoints")


class CorrSettings(Section):
    """``fit3d probe corr``."""

    pairs: int = Field(400, gt=0, description="pairs of views at most, spread over the angles")
    matches: int = Field(1000, gt=0, description="surest of all matches that count (probe3d)")
    stride: int = Field(
        3, gt=0, le=8, description="every n-th pixel is matched, and matches / n^2 count; 1 ="
        " probe3d, slow"
    )  # fmt: skip
    min_overlap: float = Field(
        0.3, gt=0, le=1, description="least share of the known points of a view that its pair sees"
    )
    max_angle: float = Field(
        120.0, gt=0, le=180, description="largest rotation between two views, degrees"
    )
    tolerance: float = Field(
        0.05, gt=0, description="relative depth difference above which a point counts as hidden"
    )
    depth: Literal["auto", "capture", "rendered"] = Field(
        "auto", description="whose depth tells the truth; auto = the capture's where it has any"
    )


class ClsSettings(Section):
    """``fit3d probe cls``."""

    k: int = Field(20, gt=0, description="neighbours that vote (DINO: 20)")
    temperature: float = Field(0.07, gt=0, description="of the votes (DINO: 0.07)")


class TrackSettings(Section):
    """``fit3d probe track``."""

    radius: float = Field(
        35.0,
        gt=0,
        description="soft arg-max radius, pixels of an 854 wide frame (DINO-Tracker: 35)",
    )
    temperature: float = Field(1.0, gt=0, description="softmax over cosines (DINO-Tracker: 1)")
    anchor: float = Field(0.7, ge=-1, le=1, description="cosine from which a frame is an anchor")
    visible: float = Field(0.6, ge=-1, le=1, description="cosine below which a point is occluded")


class PoseSettings(Section):
    """``fit3d probe pose``."""

    stride: int = Field(4, gt=0, description="pixels between the query's grid points")
    every: int = Field(10, gt=0, description="use every n-th query picture")
    descriptors: int = Field(120_000, gt=0, description="template points per object at most")
    inlier: float = Field(8.0, gt=0, description="RANSAC's reprojection error, pixels")
    trials: int = Field(10_000, gt=0, description="RANSAC trials at most")


class ProbeSettings(Section):
    """``fit3d probe``."""

    backbone: BackboneSettings = BackboneSettings()
    tuned: str = Field("", description="tuned model directory; empty = newest in the workspace")
    models: tuple[Literal["base", "tuned", "concat", "sum", "fused"], ...] = Field(
        ("base", "tuned", "concat"), description="which features to probe"
    )
    data: str = Field("", description="dataset directory; empty = <workspace>/datasets/<dataset>")
    preset: Literal["fast", "fixed", "parity"] = Field(
        "fast",
        description="cached tokens of whole pictures; the published training with its mistakes"
        " mended; or as published (seg, depth, transfer)",
    )
    steps: int = Field(0, ge=0, description="steps of the linear head; 0 = the preset's")
    lr: float = Field(0.0, ge=0, description="AdamW step of the head; 0 = the preset's")
    weight_decay: float = Field(
        -1.0, ge=-1, description="AdamW weight decay of the head; -1 = the preset's"
    )
    batch: int = Field(16, gt=0, description="images per head step, however many GPUs")
    bins: int = Field(256, gt=1, description="depth bins")
    min_depth: float = Field(0.0, ge=0, description="nearest scored depth, metres; 0 = dataset's")
    max_depth: float = Field(0.0, ge=0, description="farthest scored depth, metres; 0 = dataset's")
    max_images: int = Field(0, ge=0, description="use at most this many images per split; 0 = all")
    drift_images: int = Field(
        24, ge=0, description="pictures on which tuned tokens are compared with the base's"
    )
    corr: CorrSettings = CorrSettings()
    cls: ClsSettings = ClsSettings()
    track: TrackSettings = TrackSettings()
    pose: PoseSettings = PoseSettings()


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
