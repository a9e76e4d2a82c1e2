"""Depth of another camera on the photo's pixels, against planes and boxes cast by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_cli.capture.base import Capture, DepthCamera, Distortion, View
from fit3d_cli.capture.frames import load_frame, stored_depth
from fit3d_cli.capture.read import capture_digest, read_capture
from fit3d_cli.capture.registration import register_depth
from fit3d_cli.errors import CaptureError
from fit3d_cli.images import resize_depth, save_png
from fit3d_cli.probing.sources import capture_depth

NORMAL, OFFSET = torch.tensor([0.35, -0.2, 1.0], dtype=torch.float64), 3.0
BOX = ((-0.25, 0.4), (-0.3, 0.2), 1.6)  # x, y and z of a wall in front of the plane


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def pose(tx: float, ty: float, tz: float, turn: float = 0.0, roll: float = 0.0) -> Tensor:
    c, s = math.cos(turn), math.sin(turn)
    cr, sr = math.cos(roll), math.sin(roll)
    y = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    z = torch.tensor([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]], dtype=torch.float64)
    made = torch.eye(4, dtype=torch.float64)
    made[:3, :3] = z @ y
    made[:3, 3] = torch.tensor([tx, ty, tz], dtype=torch.float64)
    return made


def cast(world_from_camera: Tensor, K: Tensor, width: int, height: int, *, box: bool) -> Tensor:
    """Exact depth along the axis of the plane, and of the wall in front of it."""
    u, v = torch.meshgrid(
        torch.arange(width).double() + 0.5, torch.arange(height).double() + 0.5, indexing="xy"
    )
    rays = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], -1)
    rays = rays @ world_from_camera[:3, :3].T
    eye = world_from_camera[:3, 3]
    z = (OFFSET - NORMAL @ eye) / (rays @ NORMAL)
    if box:
        (x0, x1), (y0, y1), wall = BOX
        near = (wall - eye[2]) / rays[..., 2]
        hit = eye + near[..., None] * rays
        on = (hit[..., 0] > x0) & (hit[..., 0] < x1) & (hit[..., 1] > y0) & (hit[..., 1] < y1)
        z = torch.where(on & (near > 0), near, z)
    return z


RIGS = {
    "one lens, half the size": ((64, 48), pinhole(60, 61, 31, 25), pose(0, 0, 0)),
    "longer lens beside": ((128, 96), pinhole(140, 139, 66, 45), pose(0.03, 0.01, 0.0, 0.02, 0.01)),
    "coarse lens, turned": ((48, 36), pinhole(42, 42, 24, 18), pose(-0.025, 0, 0.01, -0.03, 0.05)),
    "finer than the photo": ((320, 240), pinhole(290, 291, 160, 121), pose(0.02, 0, 0, 0, 0.03)),
}
PHOTO = (128, 96)
K_PHOTO = pinhole(120, 122, 63, 49)


@pytest.mark.parametrize("rig", RIGS)
@pytest.mark.parametrize("size", [(128, 96), (48, 36)])
def test_plane_within_a_pixel_and_without_holes(rig: str, size: tuple[int, int]) -> None:
    (w, h), K, photo_from_depth = RIGS[rig]
    world_from_depth = photo_from_depth  # the photo's camera is the world
    depth = cast(world_from_depth, K, w, h, box=False)
    scale = torch.tensor([[size[0] / PHOTO[0]], [size[1] / PHOTO[1]], [1]], dtype=torch.float64)
    K_out = K_PHOTO * scale
    found = register_depth(depth, DepthCamera(K, photo_from_depth), K_out, *size).double()
    truth = cast(torch.eye(4, dtype=torch.float64), K_out, *size, box=False)
    # Where the depth camera looked: the true points, projected into it.
    u, v = torch.meshgrid(
        torch.arange(size[0]).double() + 0.5, torch.arange(size[1]).double() + 0.5, indexing="xy"
    )
    x, y = (u - K_out[0, 2]) / K_out[0, 0] * truth, (v - K_out[1, 2]) / K_out[1, 1] * truth
    back = torch.linalg.inv(photo_from_depth)
    seen = torch.stack([x, y, truth], -1) @ back[:3, :3].T + back[:3, 3]
    ud = seen[..., 0] / seen[..., 2] * K[0, 0] + K[0, 2]
    vd = seen[..., 1] / seen[..., 2] * K[1, 1] + K[1, 2]
    inside = (ud > 0.5) & (ud < w - 0.5) & (vd > 0.5) & (vd < h - 0.5)
    outside = (ud < -1) | (ud > w + 1) | (vd < -1) | (vd > h + 1)
    assert inside.float().mean() > 0.5
    assert bool((found[inside] > 0).all()), "holes"
    assert bool((found[outside] == 0).all()), "invented depth"
    # Nearest sample: off by what the plane rises over half a depth pixel across and down.
    rise_x, rise_y = (depth.diff(dim=1).abs().max(), depth.diff(dim=0).abs().max())
    allowed = 0.5 * float(rise_x + rise_y) * 1.25 + 1e-4
    error = (found - truth)[inside]
    assert float(error.abs().max()) < allowed
    assert abs(float(error.mean())) < 0.1 * allowed, "a shift would show as a bias"


@pytest.mark.parametrize("scale", [(1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_one_lens_at_whole_scales_is_nearest_sampling(
    scale: tuple[int, int], spread: float
) -> None:
    """No surface grows into the next, and no unknown pixel is filled."""
    depth = 1 + spread * torch.rand(12, 16, generator=torch.Generator().manual_seed(3))
    depth[2:5, 3] = 0
    K = pinhole(20, 21, 7.5, 6.25)
    larger = K * torch.tensor([[scale[0]], [scale[1]], [1]], dtype=torch.float64)
    width, height = 16 * scale[0], 12 * scale[1]
    camera = DepthCamera(K, torch.eye(4, dtype=torch.float64))
    found = register_depth(depth, camera, larger, width, height)
    assert torch.equal(found, resize_depth(depth, width, height))


@pytest.mark.parametrize("shift", [-0.45, 0.45])
def test_of_one_surface_the_closest_sample_is_taken(shift: float) -> None:
    depth = 1 + 0.01 * torch.rand(12, 16, generator=torch.Generator().manual_seed(4))
    camera = DepthCamera(pinhole(20, 20, 8, 6), torch.eye(4, dtype=torch.float64))
    found = register_depth(depth, camera, pinhole(20, 20, 8 + shift, 6 + shift), 16, 12)
    assert torch.equal(found, depth)


# The depth camera sees much of what the wall hides from the photo.
ASIDE = ((160, 120), pinhole(120, 120, 110, 60), pose(0.5, 0.1, 0.0))


@pytest.mark.parametrize("rig", [*RIGS, "far aside"])
def test_the_wall_hides_what_is_behind_it(rig: str) -> None:
    (w, h), K, photo_from_depth = RIGS.get(rig, ASIDE)
    depth = cast(photo_from_depth, K, w, h, box=True)
    found = register_depth(depth, DepthCamera(K, photo_from_depth), K_PHOTO, *PHOTO).double()
    truth = cast(torch.eye(4, dtype=torch.float64), K_PHOTO, *PHOTO, box=True)
    wall = (truth - BOX[2]).abs() < 1e-9
    # Away from the outline by a depth pixel: all wall, and no plane seen through it.
    reach = math.ceil(float(K_PHOTO[0, 0] / K[0, 0])) + 1
    grown = torch.nn.functional.max_pool2d(
        (~wall).float()[None, None], 2 * reach + 1, 1, reach
    )[0, 0] > 0  # fmt: skip
    core = wall & ~grown
    assert core.sum() > 400
    assert float((found[core] - BOX[2]).abs().max()) < 0.05
    # Beyond the outline the wall does not spread.
    spread = torch.nn.functional.max_pool2d(wall.float()[None, None], 2 * reach + 1, 1, reach)
    clear = (spread[0, 0] == 0) & (found > 0)
    assert bool((found[clear] > 1.9).all())


def test_nothing_known_and_nothing_in_view() -> None:
    camera = DepthCamera(pinhole(20, 20, 8, 6), torch.eye(4, dtype=torch.float64))
    empty = register_depth(torch.zeros(12, 16), camera, K_PHOTO, 32, 24)
    assert empty.shape == (24, 32) and not empty.any()
    behind = DepthCamera(camera.K, pose(0, 0, -5.0))
    assert not register_depth(torch.ones(12, 16), behind, K_PHOTO, 32, 24).any()
    aside = DepthCamera(camera.K, pose(50.0, 0, 0))
    assert not register_depth(torch.ones(12, 16), aside, K_PHOTO, 32, 24).any()


def test_absurd_scales_stay_bounded() -> None:
    camera = DepthCamera(pinhole(1e-3, 1e-3, 8, 6), torch.eye(4, dtype=torch.float64))
    made = register_depth(torch.ones(12, 16), camera, K_PHOTO, 128, 96)
    assert made.shape == (96, 128)


def _view(tmp_path: Path, lens: Distortion | None = None) -> View:
    (w, h), K, photo_from_depth = RIGS["coarse lens, turned"]
    depth = cast(photo_from_depth, K, w, h, box=False)
    stored = (depth * 5000).round().numpy().astype(np.uint16)
    stored[0] = 43210
    save_png(tmp_path / "d.png", stored)
    save_png(tmp_path / "a.png", np.full((PHOTO[1], PHOTO[0], 3), 90, np.uint8))
    return View(
        name="a.png",
        image_path=tmp_path / "a.png",
        viewmat=torch.eye(4, dtype=torch.float64),
        K=K_PHOTO,
        width=PHOTO[0],
        height=PHOTO[1],
        distortion=lens,
        depth_path=tmp_path / "d.png",
        depth_scale=5000.0,
        depth_camera=DepthCamera(K, photo_from_depth),
        depth_unknown=(43210,),
    )


def test_frames_carry_registered_depth(tmp_path: Path) -> None:
    view = _view(tmp_path)
    frame = load_frame(view, 64, 48)
    assert frame.depth is not None and frame.depth.shape == (48, 64)
    truth = cast(torch.eye(4, dtype=torch.float64), frame.camera.Ks[0], 64, 48, box=False)
    known = frame.depth > 0
    assert known.float().mean() > 0.8
    assert float((frame.depth - truth)[known].abs().max()) < 0.06
    # The unknown value is 8.6 m: with it read as depth the top row would stick out.
    wrong = load_frame(replace(view, depth_unknown=()), 64, 48).depth
    assert wrong is not None and float((wrong - truth).max()) > 3


def test_registered_depth_of_a_distorted_photo(tmp_path: Path) -> None:
    lens = Distortion("opencv", (-0.2, 0.03, 1e-3, -1e-3, 0.0, 0.0, 0.0, 0.0))
    view = _view(tmp_path, lens)
    # Undistorted: the pinhole's grid, as without a lens, where the lens saw something.
    flat, plain = load_frame(view, *PHOTO), load_frame(replace(view, distortion=None), *PHOTO)
    assert flat.depth is not None and plain.depth is not None
    assert torch.equal(flat.depth, plain.depth * flat.mask)
    # On the stored grid the lens is left in: pull each pixel back by hand to compare.
    stored = stored_depth(view)
    assert stored is not None and stored.shape == plain.depth.shape
    u, v = np.meshgrid(np.arange(PHOTO[0]) + 0.5, np.arange(PHOTO[1]) + 0.5)
    a, b = (u - 63) / 120, (v - 49) / 122
    x, y = a.copy(), b.copy()
    for _ in range(30):
        r2 = x * x + y * y
        radial = 1 - 0.2 * r2 + 0.03 * r2 * r2
        x, y = (
            x + a - (x * radial + 2e-3 * x * y - 1e-3 * (r2 + 2 * x * x)),
            y + b - (y * radial + 1e-3 * (r2 + 2 * y * y) - 2e-3 * x * y),
        )
    nx, ny, nz = NORMAL.tolist()
    truth = torch.from_numpy(OFFSET / (nx * x + ny * y + nz))
    known = stored > 0
    assert known.float().mean() > 0.7
    assert float((stored - truth)[known].abs().max()) < 0.06
    assert float((plain.depth - truth)[known & (plain.depth > 0)].abs().max()) > 0.08


def test_depth_probe_measures_on_the_photos_grid(tmp_path: Path) -> None:
    view = _view(tmp_path)
    mask = np.ones((24, 32), np.uint8)
    mask[:, :16] = 0
    save_png(tmp_path / "m.png", mask)
    views = tuple(replace(view, name=f"{i}.png", mask_path=tmp_path / "m.png") for i in range(10))
    dataset = capture_depth(Capture("c", tmp_path, "x", views, metric=True))
    depth = dataset.depth(dataset.val[0])
    expected = stored_depth(view)
    assert expected is not None
    assert torch.equal(depth[:, 64:], expected[:, 64:]) and not depth[:, :64].any()


def test_digest_tells_depth_cameras_apart_and_keeps_old_ones(trees, tmp_path: Path) -> None:
    trees.write("rgbd", tmp_path / "r")
    capture = read_capture(tmp_path / "r")
    first, *rest = capture.views
    _, K, place = RIGS["coarse lens, turned"]

    def digest(**changes: object) -> str:
        return capture_digest(replace(capture, views=(replace(first, **changes), *rest)))  # type: ignore[arg-type]

    known = {
        digest(),
        digest(depth_camera=DepthCamera(K, place)),
        digest(depth_camera=DepthCamera(K, torch.eye(4, dtype=torch.float64))),
        digest(depth_unknown=(65535,)),
    }
    assert len(known) == 4
    # Written by the release before depth cameras, of pictures that are the same on any machine.
    pictures = [replace(v, image_path=tmp_path / "x", depth_path=None) for v in capture.views]
    (tmp_path / "x").write_bytes(b"photo")
    expected = "86e9e398b9a62b17c4aef7bb82487e5bbc7f5040e57d02d18cc124b273af8916"
    assert capture_digest(replace(capture, views=tuple(pictures))) == expected


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (DepthCamera(pinhole(0, 9, 24, 18), pose(0, 0, 0)), "not positive"),
        (DepthCamera(pinhole(math.nan, 9, 24, 18), pose(0, 0, 0)), "not positive"),
        (DepthCamera(pinhole(40, 40, 24, 18), 2 * pose(0, 0, 0)), "not a rigid motion"),
        (DepthCamera(pinhole(40, 40, 24, 18), pose(math.inf, 0, 0)), "not a rigid motion"),
        (DepthCamera(pinhole(90, 90, 48, 36), pose(0, 0, 0)), r"48x32, .* axis is at 48, 36"),
    ],
)
def test_impossible_depth_cameras(trees, tmp_path: Path, camera: DepthCamera, words: str) -> None:
    from fit3d_cli.capture.checks import check_capture

    trees.write("rgbd", tmp_path / "r")
    capture = read_capture(tmp_path / "r")
    views = tuple(
        replace(v, depth_camera=camera) if v.depth_path is not None else v for v in capture.views
    )
    with pytest.raises(CaptureError, match=words) as caught:
        check_capture(replace(capture, views=views))
    assert "frame-000000.depth.png" in str(caught.value) and caught.value.hint
