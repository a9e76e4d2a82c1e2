"""Settings of ``fit3d finetune``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fit3d_cli.settings.base import ModelSettings, Section


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
    workers: int = Field(
        1, ge=0, le=64, description="threads that read samples, a step each ahead; 0 = none"
    )
    heldout_points: int = Field(
        5, ge=0, description="points of the curve over held-out views besides its start; 0 = none"
    )
