"""Small scenes of every kind, as ``.f3d`` files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from fit3d_cli.archive import write_archive
from fit3d_cli.decoders import Decoder
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.scene import FeatureSource, Scene
from tests.reliability._tensormutations import Model, put_manifest, seal_archive


def scene(count: int = 5, views: int = 3, dim: int = 4, coefficients: int = 4) -> Scene:
    """A small scene, the same every time."""
    draw = torch.Generator().manual_seed(count)
    eyes = torch.randn(views, 3, generator=draw, dtype=torch.float64) * 3
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    lens = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]).double()
    return Scene(
        name="room",
        gaussians=Gaussians(
            means=torch.randn(count, 3, generator=draw),
            quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1),
            scales=torch.randn(count, 3, generator=draw).exp() * 0.1,
            opacities=torch.rand(count, generator=draw),
            sh=torch.randn(count, coefficients, 3, generator=draw),
        ),
        features=torch.randn(count, dim, generator=draw),
        decoder=Decoder(torch.randn(5, dim, 3, 3, generator=draw), torch.randn(5, generator=draw)),
        source=FeatureSource("dinov2_vits14_reg", "0" * 64, 5, 14, 518, 392),
        cameras=Cameras(look_at(eyes, torch.zeros(views, 3, dtype=torch.float64), up),
                        lens.repeat(views, 1, 1), torch.tensor([[640, 480]] * views)),
        names=tuple(f"{i:03}.png" for i in range(views)),
        heldout=torch.arange(views) % 4 == 1,
        capture_digest="1" * 64,
        metric=True,
        metrics={"psnr": 27.25, "depth_rmse": math.nan},
        provenance={"fit3d": "0.1.0", "seed": 3, "settings": {"lift.dim": 4, "list": [1, 0.5]}},
    )  # fmt: skip


def archives(folder: Path) -> list[bytes]:
    """Files of none, one and many Gaussians; odd names; extensions; another minor version."""
    path = folder / "seed.f3d"

    def stored(made: Scene) -> bytes:
        write_archive(path, made)
        return path.read_bytes()

    odd = ("a/é 雪\n.png", "b b.png", "c\udce9.png")
    plain = stored(scene())
    return [
        plain,
        stored(scene(0, 1)),
        stored(replace(scene(1, 1, 1, 1), metric=False, metrics={}, provenance={})),
        stored(scene(30, 12, 3, 16)),
        stored(replace(scene(2), names=odd, name="café 雪")),
        extended(plain),
    ]


def extended(raw: bytes, *, version: str = "1.7") -> bytes:
    """What a later minor version may add: tensors under x. and keys of the manifest."""
    model = Model.parse(raw)
    model.tensors.append(["x.velocity", "F32", [5, 3], bytes(60)])
    model.tensors.append(["x.flag", "I64", [], bytes(8)])
    model.metadata["f3d_version"] = version
    seal_archive(model)
    data = json.loads(model.metadata["f3d_manifest"])
    data |= {"version": version, "weather": {"sunny": True, "wind": [1, 2.5]}}
    put_manifest(model, json.dumps(data, sort_keys=True, separators=(",", ":")))
    return model.raw()


def big(folder: Path, size: int) -> bytes:
    """An archive of about that many bytes."""
    path = folder / "big.f3d"
    write_archive(path, scene(max(1, size // 268), 8, 64, 16))
    return path.read_bytes()
