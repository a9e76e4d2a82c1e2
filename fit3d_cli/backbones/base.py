"""The registry of named backbones; one file of this package per family.

A name that is not registered is taken as a timm model name or as the directory of a tuned
model, so the registry is a list of good choices, never a fence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fit3d_cli.registry import Registry


@dataclass(frozen=True)
class BackboneSpec:
    """A named backbone, described without importing timm.

    Attributes:
        name: What users type.
        timm_id: timm architecture, with the tag of the pretrained weights.
        licence: Licence of the weights as timm states it.
        note: What to know before choosing it, one line.
        file: Name of a weight file shipped in ``fit3d_cli/backbones/data``; empty means that
            the weights come from the Hugging Face hub.
        model_args: Arguments that make timm's architecture into this one.
        pretrained_cfg: Corrections to timm's pretrained config (e.g. another mean and std).
    """

    name: str
    timm_id: str
    licence: str
    note: str = ""
    file: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)


BACKBONES: Registry[BackboneSpec] = Registry("backbone", "fit3d_cli.backbones")


def register(name: str, timm_id: str, licence: str, note: str = "") -> BackboneSpec:
    """Register a backbone whose weights are on the hub."""
    return BACKBONES.add(name, BackboneSpec(name, timm_id, licence, note))
