from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.capture.base import Distortion, View
from fit3d_cli.capture.distortion import (
    distort,
    fold_radius,
    make_distortion,
    undistortion_grid,
)
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import ImageError

OPENCV = Distortion("opencv", (-0.28, 0.07, 1e-3, -2e-3, 0.01, 0.02, -0.01, 0.003))
FISHEYE = Distortion("fisheye", (0.05, -0.02, 0.01, -0.003))
W, H, F = 96, 80, 70.0


def _by_hand(x: float, y: float, lens: Distortion) -> tuple[float, float]:
    """OpenCV's formulas in polar or expanded form, one point at a time."""
    r = math.hypot(x, y)
    if lens.model == "fisheye":
        theta = math.atan2(r, 1.0)
        bent = theta + sum(k * theta ** (2 * i + 3) for i, k in enumerate(lens.params))
        angle = math.atan2(y, x)
        return bent * math.cos(angle), bent * math.sin(angle)
    k1, k2, p1, p2, k3, k4, k5, k6 = lens.params
    factor = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    return (
        x * factor + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * factor + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


@pytest.mark.parametrize("lens", [OPENCV, FISHEYE])
def test_forward_model(lens: Distortion) -> None:
    side = np.linspace(-0.9, 0.9, 7)
    points = [(float(x), float(y)) for x in side for y in side]
    expected = torch.tensor([_by_hand(x, y, lens) for x, y in points], dtype=torch.float64)
    found = distort(torch.tensor(points, dtype=torch.float64), lens)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_RADIAL", [70, 48, 40, -0.1]),
        ("RADIAL", [70, 48, 40, -0.1, 0.03]),
        ("OPENCV", [70, 71, 47, 41, -0.1, 0.03, 1e-3, 2e-3]),
        ("FULL_OPENCV", [70, 71, 47, 41, -0.1, 0.03, 1e-3, 2e-3, 0.01, 0.02, 0.03, 0.04]),
        ("SIMPLE_FISHEYE", [70, 48, 40]),
        ("FISHEYE", [70, 71, 48, 40]),
        ("SIMPLE_RADIAL_FISHEYE", [70, 48, 40, 0.05]),
        ("RADIAL_FISHEYE", [70, 48, 40, 0.05, -0.01]),
        ("OPENCV_FISHEYE", [70, 71, 47, 41, 0.05, -0.02, 0.01, -0.003]),
    ],
)
def test_colmap_models_agree_with_pycolmap(
    trees, tmp_path: Path, model: str, params: list[float]
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    trees.write("colmap", tmp_path / "c")
    numbers = " ".join(map(str, params))
    (tmp_path / "c/sparse/0/cameras.txt").write_text(f"7 {model} 48 32 {numbers}\n")
    view = read_capture(tmp_path / "c").views[0]
    assert view.distortion is not None
    camera = pycolmap.Camera(model=model, width=48, height=32, params=params)
    ideal = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    rays = torch.cat([ideal, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    expected = torch.from_numpy(np.asarray(camera.img_from_cam(rays.numpy())))
    found = distort(ideal, view.distortion) * view.K.diagonal()[:2] + view.K[:2, 2]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def _view(tmp_path: Path, lens: Distortion | None) -> View:
    K = torch.tensor([[F, 0, W / 2 + 1], [0, F, H / 2 - 2], [0, 0, 1]], dtype=torch.float64)
    return View(
        name="a.png",
        image_path=tmp_path / "a.png",
        viewmat=torch.eye(4, dtype=torch.float64),
        K=K,
        width=W,
        height=H,
        distortion=lens,
        depth_path=tmp_path / "d.png",
        mask_path=tmp_path / "m.png",
    )


def _scene(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth colours over the ideal image plane."""
    return np.stack([0.5 + 0.45 * np.sin(3 * x + c) * np.cos(2 * y - c) for c in range(3)], axis=-1)


def _inverse(u: np.ndarray, v: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Ideal coordinates of stored pixels, by Newton steps on the hand-written model."""
    assert view.distortion is not None
    K = view.K
    xs, ys = np.empty_like(u), np.empty_like(v)
    for i in np.ndindex(*u.shape):
        a, b = (u[i] - float(K[0, 2])) / F, (v[i] - float(K[1, 2])) / F
        x, y = a, b
        for _ in range(50):
            dx, dy = _by_hand(x, y, view.distortion)
            x, y = x + 0.8 * (a - dx), y + 0.8 * (b - dy)
        xs[i], ys[i] = x, y
    return xs, ys


@pytest.mark.parametrize("lens", [OPENCV, FISHEYE])
def test_undistortion_shows_what_a_pinhole_would(trees, tmp_path: Path, lens: Distortion) -> None:
    view = _view(tmp_path, lens)
    u, v = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    x, y = _inverse(u, v, view)
    trees.save(view.image_path, (_scene(x, y) * 255).round().astype(np.uint8))
    # Depth and mask are steps along a straight line of the world: x < 0.45.
    trees.save(tmp_path / "d.png", np.where(x < 0.45, 1000, 3000).astype(np.uint16))
    trees.save(tmp_path / "m.png", np.where(x < 0.45, 0, 255).astype(np.uint8))
    frame = load_frame(view, W, H)
    assert torch.equal(frame.camera.Ks[0], view.K)
    xs, ys = (u - float(view.K[0, 2])) / F, (v - float(view.K[1, 2])) / F
    _, inside = undistortion_grid(lens, (F, F, W / 2 + 1, H / 2 - 2), W, H)
    inner = inside.clone()
    inner[[0, -1]] = False
    inner[:, [0, -1]] = False
    assert float(inner.float().mean()) > 0.7
    error = (frame.image - torch.from_numpy(_scene(xs, ys)).float()).abs().amax(-1)
    assert float(error[inner].max()) < 0.02
    # The bent line is straight again, to the pixel that nearest sampling may be off.
    assert frame.depth is not None
    edge = torch.from_numpy(np.abs(xs - 0.45) * F < 1.0)
    side = torch.from_numpy(xs < 0.45)
    sure = inside & ~edge
    assert set(frame.depth[inside].unique().tolist()) == {1.0, 3.0}
    assert torch.equal(frame.depth[sure] == 1.0, side[sure])
    assert torch.equal(frame.mask[sure], ~side[sure])
    # Without undistortion the same line is bent by more than that.
    raw = load_frame(replace(view, distortion=None), W, H)
    assert raw.depth is not None
    assert not torch.equal(raw.depth[sure] == 1.0, side[sure])


def test_pixels_that_the_lens_did_not_see_are_masked(trees, tmp_path: Path) -> None:
    # A pincushion lens squeezes a wider pinhole picture: the rim has no source.
    lens = Distortion("opencv", (0.4, 0, 0, 0, 0, 0, 0, 0))
    view = replace(_view(tmp_path, lens), depth_path=None, mask_path=None)
    trees.save(view.image_path, np.full((H, W, 3), 200, np.uint8))
    frame = load_frame(view, W, H)
    assert not frame.mask[0, 0] and not frame.mask[-1, -1]
    assert frame.mask[H // 2, W // 2]
    assert float(frame.image[~frame.mask].max()) == 0
    assert float((frame.image[frame.mask] - 200 / 255).abs().max()) < 1e-5


def test_no_mirror_image_beyond_the_fold() -> None:
    # r (1 - r^2) turns round at 1 / sqrt(3).
    lens = Distortion("opencv", (-1.0, 0, 0, 0, 0, 0, 0, 0))
    assert fold_radius(lens, 2.0) == pytest.approx(3**-0.5, abs=1e-3)
    assert fold_radius(lens, 0.5) == 0.5
    _, inside = undistortion_grid(lens, (30.0, 30.0, 50.0, 50.0), 100, 100)
    assert inside[50, 50] and inside[50, 50 + 16]
    assert not inside[50, 50 + 19 :].any()  # 19.5 / 30 > 1 / sqrt(3)


def test_make_distortion() -> None:
    assert make_distortion("opencv", (0.0, 0.0)) is None
    assert make_distortion("opencv", (0.0, 1e-3)) == Distortion("opencv", (0.0, 1e-3) + (0.0,) * 6)
    # A fisheye without coefficients is still no pinhole.
    assert make_distortion("fisheye", ()) == Distortion("fisheye", (0.0,) * 4)


def test_resized_frame_and_camera_belong_together(trees, tmp_path: Path) -> None:
    view = replace(_view(tmp_path, None), mask_path=None)
    ramp = np.repeat(np.arange(W, dtype=np.uint8)[None, :, None] * 2, H, axis=0).repeat(3, axis=2)
    trees.save(view.image_path, ramp)
    depth = np.full((H, W), 2000, np.uint16)
    depth[:, ::2] = 0
    trees.save(tmp_path / "d.png", depth)
    frame = load_frame(view, 32, 40)
    # The colour of a pixel tells the column it came from: u / 2 * 255, at centres +0.5.
    columns = frame.image[20, :, 0] * 255 / 2 + 0.5
    rays = (torch.arange(32).double() + 0.5 - frame.camera.Ks[0, 0, 2]) / frame.camera.Ks[0, 0, 0]
    back = rays * view.K[0, 0] + view.K[0, 2]
    torch.testing.assert_close(columns[2:-2].double(), back[2:-2], atol=0.02, rtol=0)
    assert frame.depth is not None
    assert set(frame.depth.unique().tolist()) == {0.0, 2.0}
    assert frame.mask.all() and frame.mask.shape == (40, 32)


def test_small_depth_and_mask_are_enlarged_without_mixing(trees, tmp_path: Path) -> None:
    view = _view(tmp_path, None)
    trees.save(view.image_path, np.zeros((H, W, 3), np.uint8))
    trees.save(tmp_path / "d.png", np.array([[1000, 2000, 0, 4000]] * 3, np.uint16))
    trees.save(tmp_path / "m.png", np.array([[0, 9]], np.uint8))
    frame = load_frame(view, W, H)
    assert frame.depth is not None
    assert set(frame.depth.unique().tolist()) == {0.0, 1.0, 2.0, 4.0}
    assert frame.depth[0, [0, 23, 24, 47, 48, 72]].tolist() == [1, 1, 2, 2, 0, 4]
    assert not frame.mask[:, : W // 2].any() and frame.mask[:, W // 2 :].all()


def test_photo_changed_after_reading(trees, tmp_path: Path) -> None:
    trees.write("rgbd", tmp_path / "r")
    view = read_capture(tmp_path / "r").views[0]
    trees.save(view.image_path, trees.texture(0, 40, 30))
    with pytest.raises(ImageError, match=r"frame-000000\.color\.jpg: 40x30, expected 48x32"):
        load_frame(view, 24, 16)
