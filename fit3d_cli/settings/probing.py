"""Settings of ``fit3d probe``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fit3d_cli.settings.base import BackboneSettings, Section


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
    memory: int = Field(
        2048, ge=0, description="MiB of tokens and depths kept in memory; the rest is read again"
    )
    drift_images: int = Field(
        24, ge=0, description="pictures on which tuned tokens are compared with the base's"
    )
    corr: CorrSettings = CorrSettings()
    cls: ClsSettings = ClsSettings()
    track: TrackSettings = TrackSettings()
    pose: PoseSettings = PoseSettings()
