"""A scene that is known exactly: an opaque wall of Gaussians."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fit3d_cli.decoders import Decoder
from fit3d_cli.errors import SettingsError
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.geometry.gaussians import Gaussians, rgb_to_sh
from fit3d_cli.geometry.rotations import look_at
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.rendering import (
    _file_names,
    _pca_picture,
    choose_views,
    render_maps,
    render_scene,
    scaled_cameras,
    scene_pca,
)
from fit3d_cli.scene import FeatureSource, Scene

F64 = torch.float64
WIDTH, HEIGHT = 64, 48
WALL = 3.0  # the wall is the plane z = 3
NAMES = ("left/0.png", "left/1.png", "right/1.png", "right/2.png")


def cameras() -> Cameras:
    """Four cameras; the first looks straight at the wall, the others at a slant."""
    eyes = torch.tensor([[0.0, 0, 0], [0.8, 0.1, 0.2], [-0.8, -0.1, 0.1], [0.1, 0.5, -0.3]])
    targets = torch.tensor([0.0, 0, WALL]).expand(4, 3)
    K = torch.tensor([[56.0, 0, 32], [0, 56, 24], [0, 0, 1]], dtype=F64)
    return Cameras(
        look_at(eyes.to(F64), targets.to(F64), torch.tensor([0.0, -1, 0], dtype=F64)),
        K.repeat(4, 1, 1),
        torch.tensor([[WIDTH, HEIGHT]]).repeat(4, 1),
    )


def wall() -> Gaussians:
    """Flat Gaussians on a fine grid, so dense that nothing shines through; red left, blue right."""
    xs, ys = torch.meshgrid(torch.linspace(-4, 4, 97), torch.linspace(-3.4, 3.4, 83), indexing="ij")
    means = torch.stack([xs.flatten(), ys.flatten(), torch.full((xs.numel(),), WALL)], 1)
    count = len(means)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    colors = torch.tensor([0.9, 0.1, 0.1]).repeat(count, 1)
    colors[means[:, 0] > 0] = torch.tensor([0.1, 0.1, 0.9])
    return Gaussians(
        means, quats, torch.tensor([0.065, 0.065, 1e-4]).repeat(count, 1),
        torch.full((count,), 0.99), rgb_to_sh(colors)[:, None],
    )  # fmt: skip


def make(names: tuple[str, ...] = NAMES, held: tuple[int, ...] = (1, 3)) -> Scene:
    gaussians = wall()
    heldout = torch.zeros(4, dtype=torch.bool)
    heldout[list(held)] = True
    return Scene(
        name="wall",
        gaussians=gaussians,
        features=torch.cat([gaussians.means / 4, torch.ones(len(gaussians), 1)], 1),
        decoder=Decoder(torch.zeros(8, 4, 3, 3), torch.zeros(8)),
        source=FeatureSource("none", "0" * 64, 8, 8, WIDTH, HEIGHT),
        cameras=cameras(),
        names=names,
        heldout=heldout,
        capture_digest="0" * 64,
    )


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make()


def plane_depth(camera: Cameras) -> Tensor:
    """``[H, W]`` z at which each pixel's ray meets the wall."""
    width, height = map(int, camera.sizes[0].tolist())
    v, u = torch.meshgrid(
        torch.arange(height, dtype=F64) + 0.5, torch.arange(width, dtype=F64) + 0.5, indexing="ij"
    )
    K = camera.Ks[0]
    rays = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], -1)
    world_z = rays @ camera.viewmats[0, :3, 2]  # z of the ray in the world, per unit of depth
    return (WALL - camera.centers[0, 2]) / world_z


def test_depth_is_that_of_the_wall(scene: Scene) -> None:
    front = render_maps(scene, scene.cameras[0], features=False)
    assert front.alphas.min() > 0.98
    # Every Gaussian is at exactly this depth; float32 blending of 3.
    torch.testing.assert_close(front.depth, torch.full((HEIGHT, WIDTH), WALL), rtol=0, atol=1e-4)
    for index in (1, 2, 3):
        slanted = render_maps(scene, scene.cameras[index], features=False)
        error = (slanted.depth - plane_depth(scene.cameras[index])).abs()
        # A Gaussian has one depth over its whole width of 0.065, and near ones are blended first.
        assert float(error.mean()) < 0.03 and float(error.max()) < 0.15
        assert float(slanted.depth.max() - slanted.depth.min()) > 0.5


def test_colour_and_features_are_in_their_places(scene: Scene) -> None:
    maps = render_maps(scene, scene.cameras[0], features=True)
    assert maps.features is not None and maps.features.shape == (HEIGHT, WIDTH, 4)
    red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    opaque = maps.alphas[..., None]
    torch.testing.assert_close(maps.rgb[:, :28], (opaque * red)[:, :28], rtol=0, atol=2e-3)
    torch.testing.assert_close(maps.rgb[:, 37:], (opaque * blue)[:, 37:], rtol=0, atol=2e-3)
    # The last channel is one everywhere, so it renders to alpha.
    torch.testing.assert_close(maps.features[..., 3], maps.alphas, rtol=0, atol=1e-4)
    u = (torch.arange(WIDTH) + 0.5 - 32) / 56 * WALL / 4
    torch.testing.assert_close(maps.features[24, :, 0], u * maps.alphas[24], rtol=0, atol=0.03)
    assert render_maps(scene, scene.cameras[0], features=False).features is None


def test_what_is_not_hit_has_depth_zero(scene: Scene) -> None:
    away = Cameras(
        look_at(
            torch.zeros(1, 3, dtype=F64), torch.tensor([[0.0, 0, -1]], dtype=F64),
            torch.tensor([0.0, -1, 0], dtype=F64),
        ),
        scene.cameras.Ks[:1], scene.cameras.sizes[:1],
    )  # fmt: skip
    maps = render_maps(scene, away, features=True)
    assert maps.features is not None
    for values in (maps.rgb, maps.depth, maps.alphas, maps.features):
        assert (values == 0).all()


def test_scaled_cameras_keep_aspect_and_scene(scene: Scene) -> None:
    tall = dataclasses.replace(
        scene.cameras, sizes=torch.tensor([[64, 48], [64, 48], [48, 64], [64, 48]])
    )
    scaled = scaled_cameras(tall, 32)
    assert [c.sizes.tolist() for c in scaled] == [[[32, 24]], [[32, 24]], [[32, 43]], [[32, 24]]]
    small = render_maps(scene, scaled_cameras(scene.cameras[0], 16)[0], features=False)
    assert small.rgb.shape == (12, 16, 3)
    assert small.rgb[6, 2, 0] > 0.8 and small.rgb[6, 13, 2] > 0.8


def test_choosing_views(scene: Scene) -> None:
    assert choose_views(scene, "all") == [0, 1, 2, 3]
    assert choose_views(scene, "held-out") == [1, 3]
    assert choose_views(scene, "left/1.png") == [1]
    assert choose_views(scene, "2, 0.png") == [3, 0]
    assert choose_views(scene, "2,right/2.png,2") == [3]
    with pytest.raises(SettingsError, match=r"--views: 2 views called '1'"):
        choose_views(scene, "1")
    with pytest.raises(SettingsError, match=r"no view called '7' - names look like left/0\.png"):
        choose_views(scene, "0,7")
    with pytest.raises(SettingsError, match="no view is named"):
        choose_views(scene, " , ")
    with pytest.raises(SettingsError, match="no held-out views"):
        choose_views(make(held=()), "held-out")


def test_a_full_name_is_never_ambiguous() -> None:
    scene = make(names=("1.png", "a/1.png", "b/1.png", "c/2.png"))
    assert choose_views(scene, "1.png") == [0]
    with pytest.raises(SettingsError, match="3 views called '1'"):
        choose_views(scene, "1")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a/0.png", "b/1.png"], ["0", "1"]),
        (["a/0.png", "b/0.png"], ["a_0.png", "b_0.png"]),
        (["a.png", "a.jpg"], ["a.png", "a.jpg"]),
        (["a/b.png", "a_b.png", "c/b.png"], ["0000_a_b.png", "0001_a_b.png", "0002_c_b.png"]),
    ],
)  # fmt: skip
def test_file_names_are_short_and_unique(names: list[str], labels: list[str]) -> None:
    assert _file_names(names) == labels


def render(scene: Scene, out: Path, on_event: Any = ignore, **changes: Any) -> list[Path]:
    options = {
        "what": ("rgb", "depth"), "views": "held-out", "width": 32, "frames": 4, "fps": 5,
        "video": "gif", **changes,
    }  # fmt: skip
    return render_scene(scene, out=out, on_event=on_event, **options)


def test_files_of_every_kind(scene: Scene, tmp_path: Path) -> None:
    events: list[Progress] = []
    kinds = ("rgb", "depth", "alpha", "features", "pca")
    files = render(scene, tmp_path / "o", events.append, what=kinds)
    expected = {
        f"{stem}.{end}"
        for stem in ("1", "2")
        for end in ("rgb.png", "depth.png", "depth.npy", "alpha.png", "features.npy", "pca.png")
    }
    assert (
        {path.name for path in files}
        == expected
        == {path.name for path in (tmp_path / "o").iterdir()}
    )
    assert len(files) == len(expected)
    depth = np.load(tmp_path / "o" / "1.depth.npy", allow_pickle=False)
    assert (depth.dtype, depth.shape) == (np.float32, (24, 32))
    truth = plane_depth(scene.cameras[1].resized(32, 24)).numpy()
    # Depths run from 2.4 to 3.5; at this size the renderer's blur of half a pixel is 5 cm wide.
    assert np.abs(depth - truth).mean() < 0.05
    features = np.load(tmp_path / "o" / "2.features.npy", allow_pickle=False)
    assert (features.dtype, features.shape) == (np.float16, (24, 32, 4))
    assert features[..., 3].min() > 0.97
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.size == (32, 24) and picture.mode == "RGB"
    with Image.open(tmp_path / "o" / "1.alpha.png") as picture:
        assert np.asarray(picture).min() >= 250
    assert [(e.done, e.total) for e in events] == [(0, 2), (1, 2), (2, 2)]


def test_rendering_is_repeatable(scene: Scene, tmp_path: Path) -> None:
    kinds = ("rgb", "pca", "features")
    first, second = (render(scene, tmp_path / name, what=kinds) for name in "ab")
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]


def test_one_basis_colours_all_views(scene: Scene) -> None:
    """The same place of the wall has the same colour from everywhere."""
    basis = scene_pca(scene)
    colours = []
    for index in (0, 1, 2, 3):
        maps = render_maps(scene, scene.cameras[index], features=True)
        assert maps.features is not None
        shown = basis(maps.features / maps.alphas[..., None])
        colours.append(shown[24, 32])  # all cameras look at the same point
    for other in colours[1:]:
        torch.testing.assert_close(other, colours[0], rtol=0, atol=0.05)


def test_the_pca_picture_fades_with_alpha_and_keeps_its_hue(scene: Scene) -> None:
    basis = scene_pca(scene)
    thin = dataclasses.replace(
        scene.gaussians, opacities=torch.full_like(scene.gaussians.opacities, 0.15)
    )
    hues = []
    for gaussians in (scene.gaussians, thin):
        maps = render_maps(
            dataclasses.replace(scene, gaussians=gaussians), scene.cameras[1], features=True
        )
        hues.append(_pca_picture(maps, basis) / maps.alphas[..., None])
    assert float(maps.alphas.mean()) < 0.75
    # The wall's features vary slowly, so more transparent Gaussians average to the same.
    torch.testing.assert_close(hues[1], hues[0], rtol=0, atol=0.05)


def test_a_transparent_scene_still_has_colours(scene: Scene) -> None:
    faint = dataclasses.replace(
        scene,
        gaussians=dataclasses.replace(
            scene.gaussians, opacities=torch.full_like(scene.gaussians.opacities, 0.02)
        ),
    )
    assert render_maps(faint, faint.cameras[0], features=False).alphas.max() < 0.5
    assert torch.isfinite(scene_pca(faint)(torch.zeros(2, 2, 4))).all()


def test_orbit_is_one_video_per_kind(scene: Scene, tmp_path: Path) -> None:
    events: list[Progress] = []
    files = render(scene, tmp_path, events.append, what=("rgb", "depth", "pca"), views="orbit")
    assert [path.name for path in files] == ["orbit.rgb.gif", "orbit.depth.gif", "orbit.pca.gif"]
    for path in files:
        with Image.open(path) as video:
            assert (video.n_frames, video.size) == (4, (32, 24))
    with Image.open(tmp_path / "orbit.rgb.gif") as video:
        shots = []
        for frame in range(4):
            video.seek(frame)
            shots.append(np.asarray(video.convert("RGB")).astype(int))
    # The path stays before the wall: all of it is seen, and the views differ.
    assert all(shot.max(-1).min() > 60 for shot in shots)
    assert np.abs(shots[0] - shots[2]).mean() > 1
    assert events[-1].done == events[-1].total == 4


def test_an_orbit_of_arrays_is_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--what features: an orbit has pictures only"):
        render(scene, tmp_path, what=("features",), views="orbit")


def test_an_unknown_view_writes_nothing(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        render(scene, tmp_path / "o", views="nobody")
    assert not (tmp_path / "o").exists() or not any((tmp_path / "o").iterdir())
