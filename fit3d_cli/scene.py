"""The value that ``lift`` makes and ``.f3d`` archives hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fit3d_cli.decoders import Decoder
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.shapes import check_dims


@dataclass(frozen=True)
class FeatureSource:
    """The backbone whose tokens were lifted.

    Attributes:
        backbone: Registered or timm name.
        weights_sha256: Digest of the weights.
        dim: Token channels C.
        patch_size: Pixels per token side.
        width: Width of the pictures that the backbone saw, a patch multiple.
        height: Height of those pictures, a patch multiple.
    """

    backbone: str
    weights_sha256: str
    dim: int
    patch_size: int
    width: int
    height: int

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid ``(h, w)``."""
        return self.height // self.patch_size, self.width // self.patch_size


@dataclass(frozen=True)
class Scene:
    """Gaussians with features, the decoder, and the cameras they were fitted to.

    Attributes:
        name: Scene name.
        gaussians: N Gaussians, in the capture's own world frame.
        features: ``[N, d]`` lifted features.
        decoder: ``d -> C``.
        source: The backbone whose tokens were lifted.
        cameras: One per view, at the stored photos' size (undistorted).
        names: View names, as in the capture.
        heldout: ``[V]`` bool, True for views that took no part in fitting or lifting.
        capture_digest: sha256 over the capture's photos, depth, masks and cameras.
        metric: Whether the world unit is the metre.
        metrics: Held-out figures measured by ``lift``.
        provenance: Versions, seed and the settings that differ from the defaults.
    """

    name: str
    gaussians: Gaussians
    features: Tensor
    decoder: Decoder
    source: FeatureSource
    cameras: Cameras
    names: tuple[str, ...]
    heldout: Tensor
    capture_digest: str
    metric: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_dims(
            means=(self.gaussians.means, "N 3"),
            features=(self.features, f"N {self.decoder.in_dim}"),
            viewmats=(self.cameras.viewmats, "V 4 4"),
            heldout=(self.heldout, "V"),
        )
        if len(self.names) != len(self.cameras):
            raise ValueError(f"{len(self.names)} names for {len(self.cameras)} cameras")
        if self.decoder.out_dim != self.source.dim:
            raise ValueError(
                f"decoder makes {self.decoder.out_dim} channels, tokens have {self.source.dim}"
            )

    def to(self, device: torch.device | str) -> Scene:
        """The same scene with Gaussians and features on another device."""
        return replace(self, gaussians=self.gaussians.to(device), features=self.features.to(device))

    def views(self, heldout: bool) -> list[int]:
        """Indices of the held-out (or the training) views."""
        return [i for i, held in enumerate(self.heldout.tolist()) if held == heldout]
