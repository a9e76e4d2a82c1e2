"""The public Python interface, on scenes that are known exactly."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fit3d_cli as f3d
from fit3d_cli.api import pictures, queries, scenes
from fit3d_cli.api.queries import along_rays, at_points
from fit3d_cli.api.scenes import LiftedScene, open_scene
from fit3d_cli.archive import write_archive
from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import ArchiveError, SettingsError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh
from fit3d_cli.geometry.rotations import look_at, quats_to_matrices
from fit3d_cli.images import save_png
from fit3d_cli.scene import FeatureSource, Scene

F64 = torch.float64
DIM, CHANNELS = 8, 16


def blobs(count: int = 200, seed: int = 0) -> tuple[Gaussians, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    gaussians = Gaussians(
        torch.rand(count, 3, generator=drawn) * 2 - 1,
        torch.nn.functional.normalize(torch.randn(count, 4, generator=drawn), dim=1),
        torch.rand(count, 3, generator=drawn) * 0.2 + 0.02,
        torch.rand(count, generator=drawn) * 0.9 + 0.05,
        torch.zeros(count, 1, 3),
    )
    return gaussians, torch.randn(count, DIM, generator=drawn)


def wall() -> Scene:
    """An opaque wall at z = 3 whose features grow from left to right; two cameras before it."""
    xs, ys = torch.meshgrid(torch.linspace(-4, 4, 81), torch.linspace(-3, 3, 61), indexing="ij")
    means = torch.stack([xs.flatten(), ys.flatten(), torch.full((xs.numel(),), 3.0)], 1)
    count = len(means)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    gaussians = Gaussians(
        means, quats, torch.tensor([0.08, 0.08, 1e-3]).repeat(count, 1),
        torch.full((count,), 0.99), rgb_to_sh(torch.full((count, 3), 0.5))[:, None],
    )  # fmt: skip
    eyes = torch.tensor([[0.0, 0, 0], [0.3, 0, 0]], dtype=F64)
    targets = torch.tensor([[0.0, 0, 3], [0.3, 0, 3]], dtype=F64)
    viewmats = look_at(eyes, targets, torch.tensor([0.0, -1, 0], dtype=F64))
    K = torch.tensor([[56.0, 0, 32], [0, 56, 24], [0, 0, 1]], dtype=F64)
    cameras = Cameras(viewmats, K.repeat(2, 1, 1), torch.tensor([[64, 48]]).repeat(2, 1))
    features = torch.zeros(count, DIM)
    features[:, 0], features[:, 1] = means[:, 0], 1
    drawn = torch.Generator().manual_seed(1)
    decoder = Decoder(torch.randn(CHANNELS, DIM, 3, 3, generator=drawn), torch.ones(CHANNELS))
    return Scene(
        name="wall", gaussians=gaussians, features=features, decoder=decoder,
        source=FeatureSource("none", "0" * 64, CHANNELS, 8, 64, 48), cameras=cameras,
        names=("a.png", "b.png"), heldout=torch.tensor([False, True]), capture_digest="0" * 64,
    )  # fmt: skip


def test_points_are_the_formula() -> None:
    gaussians, values = blobs()
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    found = at_points(gaussians, values, points)
    rotations = quats_to_matrices(gaussians.quats).double()
    covariances = rotations @ torch.diag_embed(gaussians.scales.double() ** 2)
    covariances = covariances @ rotations.transpose(1, 2)
    d = (points[:, None] - gaussians.means[None]).double()
    squared = (d[:, :, None] @ torch.linalg.inv(covariances)[None] @ d[..., None])[..., 0, 0]
    weights = gaussians.opacities.double() * torch.exp(-0.5 * squared) * (squared <= 9)
    expected = weights @ values.double() / weights.sum(1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(found.density.double(), weights.sum(1), rtol=1e-3, atol=1e-5)
    sure = weights.sum(1) > 1e-3
    torch.testing.assert_close(found.features.double()[sure], expected[sure], rtol=1e-3, atol=1e-3)
    assert bool((found.features[found.density == 0] == 0).all())


def test_points_do_not_depend_on_how_they_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, values = blobs()
    points = torch.rand(64, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    whole = at_points(gaussians, values, points)
    monkeypatch.setattr(queries, "_CHUNK", 7)
    monkeypatch.setattr(queries, "_PAIRS", 50)
    parts = at_points(gaussians, values, points)
    torch.testing.assert_close(parts.features, whole.features)
    torch.testing.assert_close(parts.density, whole.density)


def test_rays_are_the_formula() -> None:
    gaussians, values = blobs(60)
    drawn = torch.Generator().manual_seed(3)
    origins = torch.randn(20, 3, generator=drawn) * 3
    directions = (torch.rand(20, 3, generator=drawn) - 0.5) - origins
    found = along_rays(gaussians, values, origins, directions * 7)
    shapes = quats_to_matrices(gaussians.quats).transpose(1, 2) / gaussians.scales[:, :, None]
    for ray in range(20):
        d = torch.nn.functional.normalize(directions[ray], dim=0)
        hits = []
        for i in range(60):
            y, e = shapes[i] @ (gaussians.means[i] - origins[ray]), shapes[i] @ d
            t = float(e @ y / (e @ e))
            gap = (y - t * e).square().sum()
            alpha = min(0.99, float(gaussians.opacities[i] * torch.exp(-0.5 * gap)))
            if alpha >= 1 / 255 and t > 0:
                hits.append((t, alpha, i))
        left, blended, depth = 1.0, torch.zeros(DIM), 0.0
        for t, alpha, i in sorted(hits):
            if left * (1 - alpha) <= 1e-4:
                break
            blended += left * alpha * values[i]
            left *= 1 - alpha
            depth = t if left <= 0.5 and not depth else depth
        assert float(found.alpha[ray]) == pytest.approx(1 - left, abs=1e-4)
        assert float(found.depth[ray]) == pytest.approx(depth, abs=1e-3)
        if left < 0.99:
            torch.testing.assert_close(
                found.features[ray], blended / (1 - left), rtol=1e-3, atol=1e-3
            )


def test_rays_meet_what_pictures_show() -> None:
    scene = LiftedScene(wall())
    depth, features = scene.render("a", what="depth"), scene.render("a", what="features")
    rows, columns = torch.meshgrid(torch.arange(8, 40, 8), torch.arange(8, 56, 8), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    x, y = (columns + 0.5 - 32) / 56, (rows + 0.5 - 24) / 56
    rays = torch.stack([x, y, torch.ones_like(x)], 1)
    met = scene.query_rays(torch.zeros_like(rays), rays)
    along = depth[rows, columns] * rays.norm(dim=1)
    torch.testing.assert_close(met.depth, along, rtol=1e-2, atol=1e-2)
    # The wall is one plane: which of two overlapping Gaussians comes first is open, and their
    # features are 0.1 apart.
    torch.testing.assert_close(met.features, features[rows, columns], rtol=0.02, atol=0.2)
    assert bool((met.alpha > 0.9).all())
    behind = scene.query_rays([[0, 0, 0]], [[0, 0, -1]])
    assert (float(behind.depth), float(behind.alpha), float(behind.features.abs().sum())) == (
        0, 0, 0
    )  # fmt: skip


def test_backbone_channels_are_the_decoders() -> None:
    scene = LiftedScene(wall())
    tokens = scene.render("b", what="tokens")
    assert (
        tokens.shape == (6, 8, CHANNELS) and scene.render(1, what="tokens", width=32).shape[1] == 4
    )
    found = scene.query_points([[0.5, 0, 3], [50, 0, 3]], channels="backbone")
    stored = scene.query_points([[0.5, 0, 3]]).features[0]
    decoder = scene.scene.decoder
    torch.testing.assert_close(found.features[0], decoder(stored.expand(1, 1, 1, -1))[0, 0, 0])
    assert float(found.features[1].abs().sum()) == 0


def test_wrong_questions() -> None:
    scene = LiftedScene(wall())
    for wrong in ([[1, 2]], [1, 2, 3], [[float("nan"), 0, 0]]):
        with pytest.raises(ValueError, match="points"):
            scene.query_points(wrong)
    with pytest.raises(ValueError, match="zero"):
        scene.query_rays([[0, 0, 0]], [[0, 0, 0]])
    for view in ("nobody.png", 2, scene.cameras):
        with pytest.raises(SettingsError):
            scene.render(view)
    with pytest.raises(SettingsError, match="patch size 8"):
        scene.render(0, what="tokens", width=30)
    with pytest.raises(SettingsError, match="unknown"):
        scene.render(0, what="smell")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="unknown"):
        scene.query_points([[0, 0, 0]], channels="all")  # type: ignore[arg-type]
    assert scene.query_points(np.zeros((0, 3))).features.shape == (0, DIM)
    assert scene.query_rays(np.zeros((0, 3)), np.zeros((0, 3))).depth.shape == (0,)


def test_wrong_pictures(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="uint8"):
        f3d.dense_features(np.zeros((4, 4, 3), np.float32), "room-tiny")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="width"):
        f3d.dense_features(np.zeros((4, 4, 3), np.uint8), "room-tiny", width=0)
    with pytest.raises(ArchiveError):
        open_scene(tmp_path / "no.f3d")


@pytest.mark.parametrize("module", [scenes, pictures])
def test_the_examples_run(module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "room.f3d", wall())
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    save_png(tmp_path / "photo.png", photo)
    done = doctest.testmod(module)  # type: ignore[arg-type]
    assert done.attempted >= 3 and not done.failed


def test_names_are_there_and_loaded_late() -> None:
    assert set(f3d._LAZY) == set(importlib.import_module("fit3d_cli.api").__all__)  # type: ignore[attr-defined]
    assert f3d.open_scene is open_scene and "dense_features" in dir(f3d)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        f3d.nonsense  # type: ignore[attr-defined]  # noqa: B018
    stub = (Path(f3d.__file__).parent / "__init__.pyi").read_text()
    assert all(f"import {name} as {name}" in stub for name in f3d._LAZY)  # type: ignore[attr-defined]
    code = "import sys, fit3d_cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
