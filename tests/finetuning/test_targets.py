"""What the tokens are pulled to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import ArchiveError, CaptureError, SettingsError
from fit3d_cli.finetuning.targets import (
    Sample,
    SceneTargets,
    check_targets,
    find_targets,
    load_depth,
    load_sample,
    prepare_targets,
)
from fit3d_cli.images import read_image, save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.rasterize import view_weights
from fit3d_cli.tensorfile import files
from fit3d_cli.workspace import Workspace


@pytest.fixture(scope="module")
def base(backbone_dir: Path) -> Backbone:
    return load_backbone(str(backbone_dir))


def prepare(
    workspace: Path, base: Backbone, name: str = "hall", captures: tuple[Path, ...] = (),
    on_event: OnEvent = ignore, depths: bool = False, **settings: object,
) -> SceneTargets:  # fmt: skip
    place = Workspace(workspace)
    found = find_targets(workspace / "scenes" / f"{name}.f3d", place, list(captures))
    chosen = FinetuneSettings.model_validate(settings)
    return prepare_targets(found, chosen, base, place, "cpu", on_event, depths=depths)


def test_targets_are_the_decoded_pooled_renders(own: Path, base: Backbone) -> None:
    targets = prepare(own, base, min_alpha=0)
    scene = read_archive(own / "scenes" / "hall.f3d")
    assert (targets.name, len(targets.views)) == ("hall", 6)
    assert sorted(targets.train + targets.heldout) == list(range(6))
    assert list(targets.heldout) == scene.views(heldout=True)
    assert [view.name for view in targets.views] == list(scene.names)
    for index in (targets.train[1], targets.heldout[0]):
        sample = load_sample(targets, index)
        camera = scene.cameras[index]
        assert camera.sizes.tolist() == [[64, 48]]
        weights = view_weights(scene.gaussians, camera.viewmats[0], camera.Ks[0], 64, 48)
        pooled = weights.apply(scene.features).reshape(6, 8, 8, 8, 5).mean((1, 3))
        # The cache holds half precision; features are of order 1 to 10.
        torch.testing.assert_close(sample.target, scene.decoder(pooled[None])[0], rtol=0, atol=2e-2)
        alphas = weights.alphas.reshape(6, 8, 8, 8).mean((1, 3))
        torch.testing.assert_close(sample.weight, alphas, rtol=0, atol=1e-3)
        assert torch.equal(sample.mask, torch.ones(6, 8))
        photo = torch.from_numpy(read_image(targets.views[index].image_path)).float() / 255
        torch.testing.assert_close(sample.image, photo.permute(2, 0, 1), rtol=0, atol=1e-6)


def test_sizes_follow_the_photos(own: Path, base: Backbone) -> None:
    sample = load_sample(prepare(own, base, "attic"), 0)
    assert sample.image.shape == (3, 32, 64)
    assert sample.target.shape == (4, 8, 24)
    assert sample.weight.shape == sample.mask.shape == (4, 8)
    assert not sample.flip and sample.flipped().flip


def test_little_coverage_and_masked_pixels_are_not_trusted(
    own: Path, base: Backbone, tmp_path: Path
) -> None:
    targets = prepare(own, base, min_alpha=0)
    whole = load_sample(targets, 0)
    threshold = float(whole.weight.median())
    strict = load_sample(replace(targets, min_alpha=threshold), 0)
    assert torch.equal(strict.weight, whole.weight * (whole.weight >= threshold))
    assert 0 < int((strict.weight == 0).sum()) < strict.weight.numel()
    mask = torch.ones(48, 64, dtype=torch.uint8)
    mask[:8, :8], mask[:8, 8:12] = 0, 0  # one token and half of its neighbour
    save_png(tmp_path / "mask.png", (mask * 255).numpy())
    views = (replace(targets.views[0], mask_path=tmp_path / "mask.png"), *targets.views[1:])
    masked = load_sample(replace(targets, views=views), 0)
    share = torch.ones(6, 8)
    share[0, 0], share[0, 1] = 0, 0.5
    assert torch.equal(masked.mask, share)
    torch.testing.assert_close(masked.weight, whole.weight * share)
    assert torch.equal(masked.target, whole.target)


@pytest.mark.parametrize("index", [-1, 6])
def test_there_is_no_such_view(own: Path, base: Backbone, index: int) -> None:
    with pytest.raises(IndexError, match="of 6 photos"):
        load_sample(prepare(own, base), index)


def test_made_once_verified_and_mended(own: Path, base: Backbone) -> None:
    targets = find_targets(own / "scenes" / "hall.f3d", Workspace(own), [])
    assert not targets.folder.exists(), "finding the targets must write nothing"
    events: list[Progress] = []
    made = prepare(own, base, on_event=events.append)
    assert made.path == targets.path, "the default targets have the path that is found"
    assert [event.done for event in events] == list(range(7))
    assert {(event.stage, event.total) for event in events} == {("hall: targets", 6)}
    data = made.path.read_bytes()
    prepare(own, base, on_event=events.append)
    assert len(events) == 7
    flipped = bytearray(data)
    flipped[-5] ^= 1
    for bad in (data[:-8], b"", bytes(flipped)):
        made.path.write_bytes(bad)
        prepare(own, base)
        assert made.path.read_bytes() == data
    # A whole file under a wrong name is not believed either.
    other = prepare(own, base, "attic")
    shutil.copy(other.path, made.path)
    prepare(own, base)
    assert made.path.read_bytes() == data
    assert not list(made.folder.glob("*.lock"))


def test_what_matters_names_the_files(own: Path, base: Backbone, other_backbone_dir: Path) -> None:
    """Another setting or base that changes the maps gives another file; nothing else does."""
    other = load_backbone(str(other_backbone_dir))
    denoised = {"source": "denoised", "shifts": 1}
    paths = [
        prepare(own, base).path,
        prepare(own, base, targets={"novel_views": 1}).path,
        prepare(own, base, targets={"source": "relifted"}).path,
        prepare(own, other, targets={"source": "relifted"}).path,
        prepare(own, base, targets=denoised).path,
        prepare(own, other, targets=denoised).path,
        prepare(own, base, targets=denoised | {"shifts": 2}).path,
    ]
    assert len(set(paths)) == len(paths)
    assert prepare(own, other, lr=1.0, min_alpha=0.1).path == paths[0]


def test_reading_a_view_again_looks_for_it_once(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    real = files._parse
    made = prepare(own, base, depths=True, targets={"novel_views": 2})
    monkeypatch.setattr(files, "_parse", lambda p, *rest: parsed.append(p) or real(p, *rest))
    for _ in range(2):
        for view in range(8):
            load_sample(made, view)
        load_depth(made, 0)
        load_depth(made, 1)
    assert len(parsed) == 3 and set(parsed) == {made.path, made.pictures, made.depths}


def test_maps_that_break_while_training_are_told(own: Path, base: Backbone) -> None:
    made = prepare(own, base)
    data = made.path.read_bytes()
    made.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArchiveError, match=r"truncated.*run the same command again") as error:
        load_sample(made, 5)
    assert error.value.where == str(made.path)
    prepare(own, base)
    assert made.path.read_bytes() == data


def patch_means(image: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(image[None], 8)[0].permute(1, 2, 0)


def test_a_mirrored_target_belongs_to_the_mirrored_picture() -> None:
    """The target is the patch mean of the picture, so it must be so after mirroring too."""
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    target = patch_means(image)
    sample = Sample(image, target, target[..., 0], target[..., 1])
    mirrored = sample.flipped()
    torch.testing.assert_close(patch_means(mirrored.image), mirrored.target)
    torch.testing.assert_close(mirrored.weight, mirrored.target[..., 0])
    torch.testing.assert_close(mirrored.mask, mirrored.target[..., 1])
    assert torch.equal(mirrored.image[:, :, 0], image[:, :, -1])
    assert torch.equal(mirrored.image[:, 0, 0], image[:, 0, -1]), "turned upside down"
    twice = mirrored.flipped()
    assert torch.equal(twice.image, image) and torch.equal(twice.target, target)


def moved(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "captures", tmp_path / "moved"))


def test_photos_are_found_where_they_were_moved_to(
    home: Path, own: Path, base: Backbone, tmp_path: Path
) -> None:
    elsewhere = moved(home, tmp_path)
    for captures in ((elsewhere,), (elsewhere / "hall",), (tmp_path, elsewhere)):
        targets = prepare(own, base, "hall", captures)
        assert targets.views[0].image_path.parent == elsewhere / "hall"
    assert prepare(own, base).views[0].image_path.parent == home / "captures" / "hall"


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


def test_denoised_targets_involve_no_geometry(own: Path, base: Backbone) -> None:
    events: list[Progress] = []
    targets = prepare(
        own, base, on_event=events.append, targets={"source": "denoised", "shifts": 2}
    )
    assert [e.done for e in events if e.stage == "hall: denoised tokens"] == list(range(7))
    sample = load_sample(targets, targets.heldout[0])
    assert torch.equal(sample.weight, torch.ones(6, 8)), "trust is the mask's alone"
    with torch.no_grad():
        tokens = base.tokens(sample.image[None])[0]
    assert sample.target.shape == tokens.shape
    near = torch.cosine_similarity(sample.target, tokens, dim=-1).mean()
    assert 0.5 < near < 0.9999, "near the base's tokens, but averaged"


@pytest.mark.parametrize(
    ("settings", "patch", "message"),
    [
        ({"upsample": 2}, 16, r"upsample: archive features have no finer grid - use .*relifted"),
        ({"upsample": 2, "source": "denoised"}, 16, r"upsample: nothing is lifted.*relifted"),
        ({"upsample": 4, "source": "relifted"}, 14, r"upsample: 4 does not divide .*14.*use 1, 2$"),
        ({"novel_views": 3, "source": "denoised"}, 16, r"novel_views: .*without geometry.*use 0"),
        ({"relift_every": 5}, 16, r"relift_every: source = archive has no teacher.*relifted"),
    ],
)
def test_settings_that_contradict_each_other(
    settings: dict[str, object], patch: int, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        check_targets(FinetuneSettings.model_validate({"targets": settings}), patch)


def test_contradictions_are_found_before_anything_is_written(own: Path, base: Backbone) -> None:
    with pytest.raises(SettingsError, match="finer grid"):
        prepare(own, base, targets={"upsample": 2})
    assert not (own / "cache" / "targets").exists()
