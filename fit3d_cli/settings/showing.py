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


class ExportSettings(Section):
    """``fit3d export``."""

    backbone: BackboneSettings = BackboneSettings()
    clusters: int = Field(6, gt=1, le=64, description="classes of --colour kmeans")
    text_weights: str = Field(
        "", description="safetensors weights of the CLIP that lifted the scene, for --text"
    )


class CompareSettings(Section):
    """``fit3d compare``."""

    backbone: BackboneSettings = BackboneSettings()
    tuned: str = Field("", description="tuned model directory; empty = newest in the workspace")
    images: int = Field(6, gt=0, description="pictures on the page")
    clusters: int = Field(6, gt=1, le=64, description="k of k-means")


class ViewSettings(Section):
    """The viewer of ``fit3d viz SCENE.f3d``."""

    port: int = Field(8080, ge=0, le=65535, description="port, or the next free one; 0 = any")
    layer: Literal["rgb", "pca", "kmeans", "depth", "similarity"] = Field(
        "rgb", description="what the colours say at first"
    )
    hide_below: float = Field(0.0, ge=0, le=1, description="least opacity of what is drawn")
    splats: int = Field(
        1_000_000, gt=0, description="Gaussians that are drawn at most; queries use all"
    )
    text_weights: str = Field(
        "", description="safetensors file of the CLIP with its text tower, for queries in words"
    )


class VizSettings(Section):
    """``fit3d viz``."""

    view: ViewSettings = ViewSettings()
    backbone: BackboneSettings = BackboneSettings()
    tuned: str = Field("", description="tuned model directory to show beside the base")
    method: Literal["pca", "kmeans", "similarity"] = Field(
        "pca", description="how features become colours; similarity = cosine to the token at point"
    )
    clusters: int = Field(6, gt=1, le=64, description="k of k-means")
    foreground: bool = Field(
        False, description="cut the background away and fit the colours to what stands out"
    )
    point: str = Field(
        "", description="X,Y in pixels of the first picture, or IMAGE:X,Y (method = similarity)"
    )
    upscale: Literal["smooth", "photo", "cells"] = Field(
        "smooth",
        description="token grid to pixels: bicubic, guided by the photo's edges, or as it is",
    )
    tiles: int = Field(24, ge=0, le=400, description="pictures on the contact sheet; 0 = no sheet")
    fps: float = Field(10.0, gt=0, le=120, description="frames per second of a feature video")
