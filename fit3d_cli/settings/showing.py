"""Settings of ``fit3d render``, ``compare`` and ``viz``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fit3d_cli.settings.base import BackboneSettings, Section


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
