"""What is shown and how: the state of the viewer, and the command that shows it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fit3d_cli.errors import SettingsError
from fit3d_cli.scene import Scene
from fit3d_cli.viewer.layers import LAYERS, Layer


@dataclass
class Look:
    """The state of the viewer.

    Attributes:
        layer: What the colours say.
        clusters: k of the k-means layer.
        opacity: Gaussians below this opacity are hidden.
        positives: ``[3]`` points whose like is looked for.
        negatives: ``[3]`` points whose like is not.
        text: Words that are looked for instead of points.
    """

    layer: Layer = "rgb"
    clusters: int = 6
    opacity: float = 0.0
    positives: list[Tensor] = field(default_factory=list)
    negatives: list[Tensor] = field(default_factory=list)
    text: str = ""

    @property
    def queried(self) -> bool:
        """Whether anything is looked for."""
        return bool(self.text or self.positives or self.negatives)

    def command(self, scene: Path, extra: str = "") -> str:
        """The command line that shows this again.

        Args:
            scene: The archive.
            extra: Further options, quoted already.
        """
        words = ["fit3d viz", shlex.quote(str(scene)), f"--layer {self.layer}"]
        if self.layer == "kmeans":
            words.append(f"--clusters {self.clusters}")
        if self.opacity:
            words.append(f"--hide-below {self.opacity:g}")
        if self.layer == "similarity":
            words += [f"--find={_numbers(point)}" for point in self.positives]
            words += [f"--unlike={_numbers(point)}" for point in self.negatives]
            words += [f"--text {shlex.quote(self.text)}"] if self.text else []
        return " ".join(words) + extra


def _numbers(point: Tensor) -> str:
    return ",".join(f"{value:.6g}" for value in point.tolist())


def parse_layer(name: str, where: str = "--layer") -> Layer:
    """A layer by name.

    Raises:
        SettingsError: There is no such layer.
    """
    for layer in LAYERS:
        if layer == name:
            return layer
    raise SettingsError(f"no layer called {name!r}", where=where, hint=f"use {', '.join(LAYERS)}")


def parse_points(texts: Sequence[str], where: str) -> list[Tensor]:
    """Points written as ``x,y,z`` in world units.

    Raises:
        SettingsError: Not three finite numbers.
    """
    points = []
    for text in texts:
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        point = torch.tensor(numbers, dtype=torch.float64)
        if len(numbers) != 3 or not torch.isfinite(point).all():
            raise SettingsError(f"{text!r} is no point", where=where,
                                hint=f"write it as {where}=0.5,-1,2 in world units")  # fmt: skip
        points.append(point)
    return points


def facts(scene: Scene, drawn: int) -> str:
    """Markdown about a scene.

    Args:
        scene: What is shown.
        drawn: Splats that the browser draws.
    """
    count = len(scene.gaussians)
    source = scene.source
    rows = [
        ("Gaussians", f"{count:,}"),
        ("features", f"{scene.decoder.in_dim} of {source.dim} channels"),
        ("backbone", f"{plain(source.backbone)} at {source.width} x {source.height}"),
        ("views", f"{len(scene.names)}, {int(scene.heldout.sum())} held out"),
    ]
    named = {"psnr": ("held-out PSNR", "{:.2f} dB"),
             "ssim": ("held-out SSIM", "{:.3f}"),
             "feature_cosine": ("held-out feature cosine", "{:.3f}")}  # fmt: skip
    for key, (label, form) in named.items():
        value = scene.metrics.get(key)
        if value is not None and value == value:
            rows.append((label, form.format(value)))
    lines = [f"**{plain(scene.name)}**", "", "| | |", "|---|---|"]
    lines += [f"| {label} | {value} |" for label, value in rows]
    if drawn < count:
        lines += ["", f"Drawn: the {drawn:,} splats with the largest opacity times area. "
                  "Queries use all."]  # fmt: skip
    return "\n".join(lines)


def plain(text: str) -> str:
    """``text`` without what Markdown, HTML or MDX would read as their own."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#&!~${}" else c for c in text if c.isprintable())
