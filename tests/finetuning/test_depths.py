"""Depth for correspondences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.errors import SettingsError
from fit3d_cli.finetuning.targets import (
    DepthView,
    SceneTargets,
    find_targets,
    load_depth,
    prepare_targets,
)
from fit3d_cli.finetuning.targets import depths as depths_module
from fit3d_cli.geometry.cameras import Cameras
from fit3d_cli.images import save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.rasterize import view_weights
from fit3d_cli.workspace import Workspace


@pytest.fixture(scope="module")
def base(backbone_dir: Path) -> Backbone:
    return load_backbone(str(backbone_dir))


def found(workspace: Path) -> SceneTargets:
    return find_targets(workspace / "scenes" / "hall.f3d", Workspace(workspace), [])


def prepare(
    workspace: Path, base: Backbone, depth: str = "auto", scene: SceneTargets | None = None,
    on_event: OnEvent = ignore,
) -> SceneTargets:  # fmt: skip
    settings = FinetuneSettings.model_validate({"pairs": {"depth": depth}})
    return prepare_targets(
        scene or found(workspace), settings, base, Workspace(workspace), "cpu", on_event,
        depths=True,
    )  # fmt: skip


def without_depth(scene: SceneTargets, *indices: int) -> SceneTargets:
    views = [
        replace(view, depth_path=None) if index in indices else view
        for index, view in enumerate(scene.views)
    ]
    return replace(scene, views=tuple(views), digest="3" * 64)


def rendered(
    scene: SceneTargets, index: int, hit: float = 0.5, spread: float = 0.2
) -> torch.Tensor:
    """Mean depth of each ray from dense weights, zero where it is hardly hit or spread out."""
    archive, camera = read_archive(scene.archive), scene.cameras[index].resized(32, 24)
    weights = view_weights(archive.gaussians, camera.viewmats[0], camera.Ks[0], 32, 24)
    dense = weights.apply(torch.eye(len(archive.gaussians))).double()
    means = archive.gaussians.means.double()
    z = (means @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3])[:, 2]
    alphas = dense.sum(-1)
    mean = (dense @ z) / alphas.clamp_min(1e-6)
    away = (dense * (z - mean[..., None]).square()).sum(-1) / alphas.clamp_min(1e-6)
    good = (alphas >= hit) & (away.sqrt() <= spread * mean)
    return torch.where(good, mean, 0.0).float()


def test_the_capture_is_believed_first(own: Path, base: Backbone) -> None:
    events: list[Progress] = []
    scene = prepare(own, base, on_event=events.append)
    assert [event.done for event in events if event.stage == "hall: depths"] == list(range(7))
    for index, view in enumerate(scene.views):
        seen = load_depth(scene, index)
        frame = load_frame(view, 32, 24)
        assert frame.depth is not None
        torch.testing.assert_close(seen.depth, frame.depth * frame.mask, rtol=0, atol=0)
        assert float(seen.depth.max()) > 0.5
        assert seen.camera.sizes.tolist() == [[32, 24]]
        torch.testing.assert_close(seen.camera.Ks, frame.camera.Ks)
        torch.testing.assert_close(seen.camera.viewmats[0], view.viewmat)
    assert scene.depths == prepare(own, base, on_event=events.append).depths
    assert len([event for event in events if event.stage == "hall: depths"]) == 7, "made again"


@pytest.mark.parametrize(("hit", "spread"), [(0.995, 9.0), (0.5, 0.3)])
def test_rendered_depth_is_the_scenes(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch, hit: float, spread: float
) -> None:
    """Unknown where the scene covers too little, or at several depths."""
    monkeypatch.setattr(depths_module, "_HIT", hit)
    monkeypatch.setattr(depths_module, "_SPREAD", spread)
    scene = prepare(own, base, "rendered")
    unknown = 0
    for index in range(6):
        depth, expected = load_depth(scene, index).depth, rendered(scene, index, hit, spread)
        same = (depth > 0) == (expected > 0)
        assert float(same.float().mean()) > 0.995, "single precision may differ at a threshold"
        torch.testing.assert_close(depth[same], expected[same], rtol=1e-4, atol=0)
        unknown += int((depth == 0).sum())
        assert depth.dtype == torch.float32
    assert 0 < unknown < 6 * 24 * 32, "one of the two is not tested"
    assert scene.depths != prepare(own, base).depths


def test_a_view_without_depth_gets_the_scenes(own: Path, base: Backbone) -> None:
    scene = prepare(own, base, scene=without_depth(found(own), 1, 4))
    measured = prepare(own, base)
    for index in range(6):
        depth = load_depth(scene, index).depth
        if index in (1, 4):
            expected = rendered(scene, index)
            same = (depth > 0) == (expected > 0)
            assert float(same.float().mean()) > 0.995
            torch.testing.assert_close(depth[same], expected[same], rtol=1e-4, atol=0)
        else:
            assert torch.equal(depth, load_depth(measured, index).depth)


@pytest.mark.parametrize("depth", ["capture", "rendered"])
def test_masked_places_have_no_depth(
    own: Path, base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: str
) -> None:
    monkeypatch.setattr(depths_module, "_SPREAD", 9.0)  # the tiny scene is fog
    mask = torch.full((48, 64), 255, dtype=torch.uint8)
    mask[:, 10:40] = 0
    save_png(tmp_path / "mask.png", mask.numpy())
    plain = found(own)
    views = (replace(plain.views[0], mask_path=tmp_path / "mask.png"), *plain.views[1:])
    scene = prepare(own, base, depth, replace(plain, views=views, digest="4" * 64))
    whole = load_depth(prepare(own, base, depth), 0).depth
    assert bool(whole[:, 5:20].any())
    expected = whole.clone()
    expected[:, 5:20] = 0
    assert torch.equal(load_depth(scene, 0).depth, expected)


def test_depth_that_is_not_there_is_refused(own: Path, base: Backbone) -> None:
    scene = without_depth(found(own), 2)
    message = r"pairs\.depth: 1 photos of hall have no depth, e\.g\. frame-000002.*auto or rendered"
    with pytest.raises(SettingsError, match=message):
        prepare(own, base, "capture", scene)
    assert not (own / "cache" / "targets").exists()


def test_depths_are_made_when_they_are_asked_for(own: Path, base: Backbone) -> None:
    bare = prepare_targets(
        found(own), FinetuneSettings(), base, Workspace(own), "cpu", ignore, depths=False
    )
    assert bare.depths is None
    with pytest.raises(ValueError, match="without depths"):
        load_depth(bare, 0)
    with pytest.raises(IndexError, match="of 6 photos"):
        load_depth(prepare(own, base), 6)


def test_a_depth_view_checks_its_shapes() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    camera = Cameras(eye[None], eye[None, :3, :3], torch.tensor([[4, 3]]))
    DepthView(torch.zeros(3, 4), camera)
    with pytest.raises(ValueError, match="depth"):
        DepthView(torch.zeros(1, 3, 4), camera)
