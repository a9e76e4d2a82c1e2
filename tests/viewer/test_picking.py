"""Rays against a scalar computation and against what the renderer says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fit3d_cli.geometry.gaussians import Gaussians
from fit3d_cli.geometry.rotations import quats_to_matrices
from fit3d_cli.scene import Scene
from fit3d_cli.splat.rasterize import render_gaussians
from fit3d_cli.viewer.picking import pick


def cloud(count: int, seed: int) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(count, 3, generator=draw) * torch.tensor([0.6, 0.6, 1.0])
        + torch.tensor([0, 0, 4.0]),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=draw), dim=1),
        0.05 + 0.3 * torch.rand(count, 3, generator=draw),
        torch.rand(count, generator=draw),
        torch.zeros(count, 1, 3),
    )  # fmt: skip


def scalar(g: Gaussians, origin: np.ndarray, ray: np.ndarray) -> list[tuple[float, float, int]]:  # type: ignore[type-arg]
    """(distance, alpha, index) of all Gaussians that a ray meets, one by one, by inverses."""
    ray = ray / np.linalg.norm(ray)
    turns = quats_to_matrices(g.quats.double()).numpy()
    met = []
    for i in range(len(g)):
        covariance = turns[i] @ np.diag(g.scales[i].double().numpy() ** 2) @ turns[i].T
        inverse, offset = np.linalg.inv(covariance), g.means[i].double().numpy() - origin
        t = ray @ inverse @ offset / (ray @ inverse @ ray)
        off = offset - t * ray
        alpha = min(0.999, float(g.opacities[i]) * math.exp(-0.5 * off @ inverse @ off))
        if alpha >= 1 / 255 and t > 0:
            met.append((t, alpha, i))
    return sorted(met)


@pytest.mark.parametrize("seed", range(4))
def test_first_surface(seed: int) -> None:
    gaussians = cloud(60, seed)
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(20):
        origin, ray = rng.normal(0, 0.1, 3), np.array([*rng.normal(0, 0.15, 2), 1.0])
        met = scalar(gaussians, origin, ray)
        hit = pick(gaussians, torch.from_numpy(origin), 3 * torch.from_numpy(ray))
        light, total = 1.0, 1 - math.prod(1 - alpha for _, alpha, _ in met)
        if total < 0.05:
            assert hit is None
            continue
        assert hit is not None
        expected = 0.0
        first = None
        for distance, alpha, index in met:
            expected += light * alpha * distance / total
            light *= 1 - alpha
            if first is None and 1 - light >= min(0.5, total / 2) - 1e-9:
                first = (distance, index)
        assert first is not None
        assert hit.gaussian == first[1]
        assert hit.distance == pytest.approx(first[0], rel=1e-9)
        assert hit.alpha == pytest.approx(total, rel=1e-6)
        assert hit.expected == pytest.approx(expected, rel=1e-6)
        place = origin + hit.distance * ray / np.linalg.norm(ray)
        assert np.allclose(hit.point.numpy(), place)
        found += 1
    assert found > 10


def test_agrees_with_rendered_depth(scene: Scene) -> None:
    camera = scene.cameras[0]
    rendered = render_gaussians(scene.gaussians, camera.viewmats[0], camera.Ks[0], 96, 64)
    pose, focal = camera.camtoworlds[0], float(camera.Ks[0, 0, 0])
    errors = []
    for row in range(8, 60, 6):
        for column in range(8, 90, 6):
            if rendered.alphas[row, column] < 0.8:
                continue
            local = torch.tensor([(column + 0.5 - 48) / focal, (row + 0.5 - 32) / focal, 1.0])
            ray = pose[:3, :3] @ local.double()
            hit = pick(scene.gaussians, pose[:3, 3], ray, pixel=1 / focal)
            assert hit is not None
            assert hit.alpha == pytest.approx(float(rendered.alphas[row, column]), abs=0.06)
            # Rendered depth is along the optical axis.
            along = hit.expected / float(local.norm())
            errors.append(abs(along - float(rendered.depth[row, column])))
    assert len(errors) > 50
    # The rasteriser takes the depth of centres, a ray that of its own passage: less than a
    # deviation of the Gaussians (0.07 to 0.12) apart, the walls are 1.0 apart.
    assert sum(errors) / len(errors) < 0.03
    assert max(errors) < 0.12


def test_nothing_there(scene: Scene) -> None:
    origin = torch.zeros(3)
    assert pick(scene.gaussians, origin, torch.tensor([0.0, 0, -1])) is None
    assert pick(scene.gaussians, origin, torch.tensor([0.0, 1, 0.01])) is None


def test_pixels_widen_thin_gaussians() -> None:
    needle = Gaussians(
        torch.tensor([[0.0, 0, 2]]), torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 1e-6), torch.tensor([0.9]), torch.zeros(1, 1, 3),
    )  # fmt: skip
    beside = torch.tensor([0.002, 0.0, 2.0])
    assert pick(needle, torch.zeros(3), beside) is None
    hit = pick(needle, torch.zeros(3), beside, pixel=0.002)
    # At 2 units a pixel is 0.004 wide; 0.002 beside the centre is half a pixel.
    assert hit is not None
    assert hit.alpha == pytest.approx(0.9 * math.exp(-0.5 * 0.25 / 0.3), rel=1e-3)
