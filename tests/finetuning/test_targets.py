"""What the backbone should produce."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.archive import read_archive
from fit3d_cli.errors import ArchiveError, CaptureError
from fit3d_cli.finetuning.targets import (
    Sample,
    SceneTargets,
    find_targets,
    load_sample,
    render_targets,
)
from fit3d_cli.images import read_image, save_png
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.splat.rasterize import view_weights
from fit3d_cli.workspace import Workspace


def prepare(workspace: Path, name: str = "hall", captures: tuple[Path, ...] = ()) -> SceneTargets:
    targets = find_targets(
        workspace / "scenes" / f"{name}.f3d", Workspace(workspace), list(captures)
    )
    render_targets(targets, ignore)
    return targets


def test_targets_are_the_decoded_pooled_renders(own: Path) -> None:
    targets = prepare(own)
    scene = read_archive(own / "scenes" / "hall.f3d")
    assert (targets.name, len(targets.views)) == ("hall", 6)
    assert sorted(targets.train + targets.heldout) == list(range(6))
    assert list(targets.heldout) == scene.views(heldout=True)
    assert [view.name for view in targets.views] == list(scene.names)
    index = targets.train[1]
    sample = load_sample(targets, index)
    camera = scene.cameras[index]
    assert camera.sizes.tolist() == [[64, 48]]
    weights = view_weights(scene.gaussians, camera.viewmats[0], camera.Ks[0], 64, 48)
    pooled = weights.apply(scene.features).reshape(6, 8, 8, 8, 5).mean((1, 3))
    # The cache holds half precision; features are of order 1 to 10.
    torch.testing.assert_close(sample.target, scene.decoder(pooled[None])[0], rtol=0, atol=2e-2)
    coverage = weights.alphas.reshape(6, 8, 8, 8).mean((1, 3))
    torch.testing.assert_close(sample.coverage, coverage, rtol=0, atol=1e-3)
    photo = torch.from_numpy(read_image(targets.views[index].image_path)).float() / 255
    torch.testing.assert_close(sample.image, photo.permute(2, 0, 1), rtol=0, atol=1e-6)


def test_sizes_follow_the_photos(own: Path) -> None:
    sample = load_sample(prepare(own, "attic"), 0)
    assert sample.image.shape == (3, 32, 64)
    assert sample.target.shape == (4, 8, 24)
    assert sample.coverage.shape == (4, 8)


def test_rendered_once(own: Path) -> None:
    targets = find_targets(own / "scenes" / "hall.f3d", Workspace(own), [])
    assert not targets.path.exists(), "finding the targets must write nothing"
    events: list[Progress] = []
    render_targets(targets, events.append)
    assert [event.done for event in events] == list(range(7))
    data = targets.path.read_bytes()
    render_targets(targets, events.append)
    assert len(events) == 7
    for bad in (data[:-8], b""):
        targets.path.write_bytes(bad)
        render_targets(targets, ignore)
        assert targets.path.read_bytes() == data


def patch_means(image: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(image[None], 8)[0].permute(1, 2, 0)


def test_a_mirrored_target_belongs_to_the_mirrored_picture() -> None:
    """The target is the patch mean of the picture, so it must be so after mirroring too."""
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    target = patch_means(image)
    sample = Sample(image, target, target[..., 0])
    mirrored = sample.flipped()
    torch.testing.assert_close(patch_means(mirrored.image), mirrored.target)
    torch.testing.assert_close(mirrored.coverage, mirrored.target[..., 0])
    assert torch.equal(mirrored.image[:, :, 0], image[:, :, -1])
    assert torch.equal(mirrored.image[:, 0, 0], image[:, 0, -1]), "turned upside down"
    twice = mirrored.flipped()
    assert torch.equal(twice.image, image) and torch.equal(twice.target, target)


def moved(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "captures", tmp_path / "moved"))


def test_photos_are_found_where_they_were_moved_to(home: Path, own: Path, tmp_path: Path) -> None:
    elsewhere = moved(home, tmp_path)
    for captures in ((elsewhere,), (elsewhere / "hall",), (tmp_path, elsewhere)):
        targets = prepare(own, "hall", captures)
        assert targets.views[0].image_path.parent == elsewhere / "hall"
    assert prepare(own).views[0].image_path.parent == home / "captures" / "hall"


@pytest.mark.parametrize("change", ["photo", "pose", "missing"])
def test_other_photos_are_refused(home: Path, own: Path, tmp_path: Path, change: str) -> None:
    root = moved(home, tmp_path) / "hall"
    photo, pose = root / "frame-000002.color.png", root / "frame-000002.pose.txt"
    if change == "photo":
        save_png(photo, 255 - read_image(photo))
    elif change == "pose":
        shutil.copy(root / "frame-000003.pose.txt", pose)
    else:
        photo.unlink()
        pose.unlink()
        (root / "frame-000002.depth.png").unlink()
    problem = "missing, e.g. frame-000002" if change == "missing" else "not the photos and cameras"
    with pytest.raises(CaptureError, match=rf"{problem}.*--captures"):
        find_targets(own / "scenes" / "hall.f3d", Workspace(own), [root])


def test_a_damaged_archive_is_refused(own: Path) -> None:
    path = own / "scenes" / "hall.f3d"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"hall\.f3d"):
        find_targets(path, Workspace(own), [])
