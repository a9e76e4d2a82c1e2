"""A teacher's tokens averaged into the Gaussians."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_cli.archive import read_archive
from fit3d_cli.backbones.load import load_backbone
from fit3d_cli.backbones.model import Backbone
from fit3d_cli.errors import WeightsError
from fit3d_cli.finetuning.targets import (
    SceneTargets,
    find_targets,
    lifted_maps,
    load_sample,
    prepare_targets,
    relift,
)
from fit3d_cli.finetuning.targets import teacher as teacher_module
from fit3d_cli.finetuning.upsample import upsample_tokens
from fit3d_cli.images import save_png
from fit3d_cli.progress import OnEvent, Progress, ignore
from fit3d_cli.settings import FinetuneSettings
from fit3d_cli.splat.rasterize import view_weights
from fit3d_cli.workspace import Workspace


@pytest.fixture(scope="module")
def base(backbone_dir: Path) -> Backbone:
    return load_backbone(str(backbone_dir))


@pytest.fixture(scope="module")
def other(other_backbone_dir: Path) -> Backbone:
    return load_backbone(str(other_backbone_dir))


def chosen(**targets: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate(
        {"min_alpha": 0, "targets": {"source": "relifted", **targets}}
    )


def found(workspace: Path, name: str = "hall") -> SceneTargets:
    return find_targets(workspace / "scenes" / f"{name}.f3d", Workspace(workspace), [])


def prepare(
    workspace: Path, teacher: Backbone, scene: SceneTargets | None = None,
    on_event: OnEvent = ignore, **targets: object,
) -> SceneTargets:  # fmt: skip
    return prepare_targets(
        scene or found(workspace), chosen(**targets), teacher, Workspace(workspace), "cpu",
        on_event, depths=False,
    )  # fmt: skip


def dense(targets: SceneTargets, index: int, factor: int = 1) -> Tensor:
    """``[tokens, N]`` pixel weights of one view, pooled by hand."""
    scene = read_archive(targets.archive)
    camera = targets.cameras[index]
    weights = view_weights(scene.gaussians, camera.viewmats[0], camera.Ks[0], 64, 48)
    pixels = weights.apply(torch.eye(len(scene.gaussians)))
    side = 8 // factor
    return pixels.reshape(6 * factor, side, 8 * factor, side, -1).mean((1, 3)).flatten(0, 1)


def tokens_of(teacher: Backbone, targets: SceneTargets, index: int) -> Tensor:
    with torch.no_grad():
        return teacher.tokens(load_sample(targets, index).image[None])[0]


def expected(
    targets: SceneTargets, rows: list[Tensor], shares: list[Tensor], index: int, factor: int = 1
) -> tuple[Tensor, Tensor]:
    """The formula with dense matrices: target and coverage of one view."""
    a = torch.cat([dense(targets, i, factor) for i in targets.train]).double()
    y, m = torch.cat(rows).double(), torch.cat(shares).double()
    column = a.T @ m
    seen = (column > 1e-6).double()
    f = (a.T @ (m[:, None] * y)) / column.clamp_min(1e-6)[:, None] * seen[:, None]
    view = dense(targets, index, factor).double()

    def pool(values: Tensor) -> Tensor:
        return values.reshape(6, factor, 8, factor, -1).mean((1, 3))

    hits = pool(view @ seen[:, None])
    return (pool(view @ f) / hits).float(), hits[..., 0].float()


def test_the_target_is_the_average_of_what_the_training_views_say(
    own: Path, base: Backbone
) -> None:
    targets = prepare(own, base)
    rows = [tokens_of(base, targets, i).flatten(0, 1) for i in targets.train]
    shares = [torch.ones(48) for _ in targets.train]
    for index in (targets.train[0], targets.heldout[0]):
        target, coverage = expected(targets, rows, shares, index)
        sample = load_sample(targets, index)
        torch.testing.assert_close(sample.target, target, rtol=4e-3, atol=4e-3)
        torch.testing.assert_close(sample.weight, coverage, rtol=0, atol=1e-3)


def test_averaging_reaches_across_views(own: Path, base: Backbone) -> None:
    """The average of many views is nearer to the other views' tokens than a photo's own are."""
    targets = prepare(own, base)
    sample = load_sample(targets, targets.train[0])
    own_tokens = tokens_of(base, targets, targets.train[0])
    assert not torch.allclose(sample.target, own_tokens, atol=0.05)
    # Averaging draws tokens together: less spread than the photo's own, never more.
    assert sample.target.std(dim=(0, 1)).mean() < own_tokens.std(dim=(0, 1)).mean()


def constant(value: float) -> object:
    def tokens(_: Backbone, images: Tensor) -> Tensor:
        return torch.full((len(images), images.shape[2] // 8, images.shape[3] // 8, 24), value)

    return tokens


def test_equal_tokens_stay_as_they_are_however_thin_the_scene(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Division by the coverage: what shines through thin places is not darker."""
    monkeypatch.setattr(Backbone, "tokens", constant(3.25))
    targets = prepare(own, base)
    for index in range(6):
        sample = load_sample(targets, index)
        assert float(sample.weight.min()) < 0.99
        shown = sample.target[sample.weight > 1e-3]
        torch.testing.assert_close(shown, torch.full_like(shown, 3.25), rtol=2e-3, atol=0)


def test_masked_tokens_do_not_contribute(
    own: Path, base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wild tokens behind a mask change nothing; without the mask they do."""
    mask = torch.ones(48, 64, dtype=torch.uint8)
    mask[:, :32] = 0
    save_png(tmp_path / "mask.png", (mask * 255).numpy())
    plain = found(own)
    first = plain.train[0]
    views = list(plain.views)
    views[first] = replace(views[first], mask_path=tmp_path / "mask.png")
    masked = replace(plain, views=tuple(views), digest="0" * 64)
    photo = load_sample(prepare(own, base), first).image

    def tokens(_: Backbone, images: Tensor) -> Tensor:
        made = torch.ones(len(images), 6, 8, 24)
        for row, image in enumerate(images):
            if torch.equal(image, photo):
                made[row, :, :4] = 100.0
        return made

    monkeypatch.setattr(Backbone, "tokens", tokens)
    quiet = prepare(own, base, masked)
    loud = prepare(own, base, replace(plain, digest="1" * 64))
    for index in range(6):
        sample = load_sample(quiet, index)
        shown = sample.target[sample.weight > 1e-3]
        torch.testing.assert_close(shown, torch.ones_like(shown), rtol=2e-3, atol=0)
    assert float(load_sample(loud, first).target.max()) > 10
    # The masked half of that photo is no target either.
    assert not load_sample(quiet, first).weight[:, :4].any()


def test_channels_at_a_time_do_not_matter(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(own, base)
    data = whole.path.read_bytes()
    whole.path.unlink()
    monkeypatch.setattr(lifted_maps, "_CHANNELS", 7)
    events: list[Progress] = []
    assert prepare(own, base, on_event=events.append).path.read_bytes() == data
    steps = [e.done for e in events if e.stage == "hall: averaging"]
    assert steps == list(range(4 * (5 + 6) + 1)), "four chunks: five views in, six out"
    assert [e.done for e in events if e.stage == "hall: teacher"] == [0, 4, 5]


def test_finer_tokens_are_lifted_on_the_finer_grid(own: Path, base: Backbone) -> None:
    targets = prepare(own, base, upsample=2)
    rows = []
    for i in targets.train:
        fine = upsample_tokens(tokens_of(base, targets, i), load_sample(targets, i).image, 2)
        assert fine.shape == (12, 16, 24)
        rows.append(fine.flatten(0, 1))
    shares = [torch.ones(192) for _ in rows]
    index = targets.heldout[0]
    target, coverage = expected(targets, rows, shares, index, factor=2)
    sample = load_sample(targets, index)
    torch.testing.assert_close(sample.target, target, rtol=4e-3, atol=4e-3)
    torch.testing.assert_close(sample.weight, coverage, rtol=0, atol=1e-3)
    coarse = load_sample(prepare(own, base), index)
    assert not torch.allclose(coarse.target, sample.target, atol=1e-2)


def test_another_teacher_is_lifted_for_a_step(
    own: Path, base: Backbone, other: Backbone, tmp_path: Path
) -> None:
    """Maps of the step below the directory, blending weights from the cache."""
    settings = chosen(relift_every=5)
    place = Workspace(own)
    scenes = [
        prepare_targets(found(own, name), settings, base, place, "cpu", ignore, depths=False)
        for name in ("hall", "attic")
    ]
    events: list[Progress] = []
    lifted = relift(scenes, other, tmp_path / "maps", 40, settings, "cpu", events.append)
    assert not [e for e in events if "token weights" in e.stage], "computed again"
    assert [scene.name for scene in lifted] == ["hall", "attic"]
    for scene, before, name in zip(lifted, scenes, ("hall", "attic"), strict=True):
        assert scene.path.parent == tmp_path / "maps" and scene.path != before.path
        assert replace(scene, path=before.path) == before
        fresh = prepare_targets(
            found(own, name), chosen(), other, place, "cpu", ignore, depths=False
        )
        for index in range(len(scene.views)):
            ours, theirs = load_sample(scene, index), load_sample(fresh, index)
            assert torch.equal(ours.target, theirs.target)
            assert torch.equal(ours.weight, theirs.weight)
            assert not torch.equal(ours.target, load_sample(before, index).target)


def test_a_lifted_step_is_kept_verified_and_mended(
    own: Path, base: Backbone, other: Backbone, tmp_path: Path
) -> None:
    settings = chosen(relift_every=5)
    scene = prepare_targets(found(own), settings, base, Workspace(own), "cpu", ignore, depths=False)
    events: list[Progress] = []

    def again(teacher: Backbone, step: int = 40) -> tuple[bytes, int]:
        events.clear()
        (lifted,) = relift([scene], teacher, tmp_path, step, settings, "cpu", events.append)
        return lifted.path.read_bytes(), len(events)

    data, made = again(other)
    assert made > 0 and again(other) == (data, 0)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(data[:-3])
    assert again(other)[0] == data
    weights = scene.cached("weights", 1, 0)
    weights.write_bytes(weights.read_bytes()[:-3])
    path.unlink()
    mended, _ = again(other)
    assert mended == data and any("token weights" in e.stage for e in events)
    # Another teacher at the same step is another file's content.
    assert again(base)[0] != data
    again(other, 45)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_single_lift_keeps_no_blending_weights(own: Path, base: Backbone) -> None:
    targets = prepare(own, base)
    assert [path for path in targets.folder.iterdir()] == [targets.path]


def test_a_diverged_teacher_is_told(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "tokens", constant(float("nan")))
    with pytest.raises(WeightsError, match=r"midget: the tokens are not finite.*finetune\.lr"):
        prepare(own, base)
    assert not list((own / "cache" / "targets").glob("*.safetensors"))


def test_photos_go_through_the_teacher_in_batches(
    own: Path, base: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of the batch changes nothing but rounding."""
    whole = [load_sample(prepare(own, base), i).target for i in range(6)]
    monkeypatch.setattr(teacher_module, "_BATCH", 1)
    single = prepare(own, base, replace(found(own), digest="2" * 64))
    for index, target in enumerate(whole):
        torch.testing.assert_close(load_sample(single, index).target, target, rtol=2e-3, atol=2e-3)
