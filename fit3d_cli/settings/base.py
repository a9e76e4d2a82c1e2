"""What every section is, and the model sections that verbs share."""

from __future__ import annotations

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
